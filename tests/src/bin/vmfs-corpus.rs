//! The corpus of crafted images: lists them, makes them, tries `fsck.vmfs` on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use vmfs_tests::corpus::base::{self, Base};
use vmfs_tests::corpus::recipe::{self, Recipe};
use vmfs_tests::corpus::trial::{self, Programs};

/// Crafted VMFS images, made from the recipes in images/corpus.
#[derive(Debug, Parser)]
#[command(
    name = "vmfs-corpus",
    after_help = "Examples:\n  vmfs-corpus list\n  vmfs-corpus make link-count-high-vmfs6 --out /tmp\n  vmfs-corpus run link-count"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints each image's name and what is wrong with it
    List,
    /// Makes images
    Make {
        /// Beginnings of names; without any, all images
        names: Vec<String>,
        /// Folder that they go to
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
    /// Checks, repairs and undoes images as the recipes say
    Run {
        /// Beginnings of names; without any, all images
        names: Vec<String>,
        /// Folder with the programs fsck-vmfs and vmfs; by default that of this one
        #[arg(long)]
        programs: Option<PathBuf>,
        /// Print what comes of each image, as JSON, instead of comparing it with the recipe
        #[arg(long)]
        show: bool,
    },
}

fn chosen(names: &[String]) -> Result<Vec<Recipe>> {
    let mut recipes = recipe::all()?;
    recipes.retain(|recipe| {
        names.is_empty()
            || names
                .iter()
                .any(|name| recipe.name.starts_with(name.as_str()))
    });
    if recipes.is_empty() {
        bail!("no image is called so; vmfs-corpus list shows them");
    }
    Ok(recipes)
}

fn bases(recipes: &[Recipe], folder: &Path) -> Result<BTreeMap<String, Base>> {
    let mut bases = BTreeMap::new();
    for recipe in recipes {
        if !bases.contains_key(&recipe.base) {
            bases.insert(recipe.base.clone(), base::build(&recipe.base, folder)?);
        }
    }
    Ok(bases)
}

fn main() -> Result<ExitCode> {
    match Args::parse().command {
        Command::List => {
            for recipe in chosen(&[])? {
                let findings: Vec<_> = recipe.findings.iter().map(String::as_str).collect();
                println!(
                    "{:<44} {} [{}]",
                    recipe.name,
                    recipe.about,
                    findings.join(", ")
                );
            }
        }
        Command::Make { names, out } => {
            let recipes = chosen(&names)?;
            let folder = tempfile::tempdir_in(&out)?;
            let bases = bases(&recipes, folder.path())?;
            for recipe in &recipes {
                let devices = trial::make(recipe, &bases[&recipe.base], &out)
                    .with_context(|| recipe.name.clone())?;
                for device in devices {
                    println!("{}", device.display());
                }
            }
        }
        Command::Run {
            names,
            programs,
            show,
        } => {
            let recipes = chosen(&names)?;
            let own = std::env::current_exe()?;
            let programs = programs.unwrap_or(own.parent().unwrap_or(Path::new(".")).to_owned());
            let programs = Programs {
                fsck: programs.join("fsck-vmfs"),
                vmfs: programs.join("vmfs"),
            };
            let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
            let bases = bases(&recipes, folder.path())?;
            let mut failed = 0;
            for recipe in &recipes {
                let base = &bases[&recipe.base];
                if show {
                    let seen = trial::observe(recipe, base, &programs, folder.path());
                    match seen {
                        Ok(seen) => println!("{} {}", recipe.name, serde_json::to_string(&seen)?),
                        Err(error) => println!("{} {error:#}", recipe.name),
                    }
                    continue;
                }
                if let Err(error) = trial::run(recipe, base, &programs, folder.path()) {
                    failed += 1;
                    println!("{}: {error:#}", recipe.name);
                }
            }
            println!(
                "{} images, {failed} otherwise than their recipes say",
                recipes.len()
            );
            if failed > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
