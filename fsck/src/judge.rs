//! Who decides whether a repair is made.

use crate::finding::Finding;

/// What a person answers to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Repair this.
    Yes,
    /// Leave this as it is.
    No,
    /// Repair this and everything else.
    All,
    /// Stop, and write nothing.
    Quit,
}

/// How repairs are decided on.
pub enum Mode {
    /// All are made in memory, to see what is behind them; nothing is written.
    Check,
    /// Those that are certain. If any isn't, nothing is written.
    Preen,
    /// All.
    Yes,
    /// As a person answers.
    Ask(Box<dyn FnMut(&Finding) -> Answer>),
}

impl std::fmt::Debug for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Check => "Check",
            Self::Preen => "Preen",
            Self::Yes => "Yes",
            Self::Ask(_) => "Ask",
        })
    }
}

/// Decides, and remembers what that means for the whole.
#[derive(Debug)]
pub(crate) struct Judge {
    mode: Mode,
    /// Something needs a person's decision.
    pub(crate) undecided: bool,
    /// The person wants nothing to be written.
    pub(crate) quit: bool,
    all: bool,
    /// The volume can't be repaired, whatever anyone says.
    pub(crate) refuses: bool,
}

impl Judge {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            mode,
            undecided: false,
            quit: false,
            all: false,
            refuses: false,
        }
    }

    /// Whether to repair what was found.
    pub(crate) fn decide(&mut self, finding: &Finding) -> bool {
        if finding.repair.is_none() || self.refuses || self.quit {
            self.undecided = true;
            return false;
        }
        match &mut self.mode {
            Mode::Check | Mode::Yes => true,
            Mode::Preen => {
                self.undecided |= !finding.certain;
                finding.certain
            }
            Mode::Ask(_) if self.all => true,
            Mode::Ask(ask) => match ask(finding) {
                Answer::Yes => true,
                Answer::No => false,
                Answer::All => {
                    self.all = true;
                    true
                }
                Answer::Quit => {
                    self.quit = true;
                    false
                }
            },
        }
    }

    /// Whether a repair of this mode may be written.
    pub(crate) fn may_write(&self) -> bool {
        match self.mode {
            Mode::Check => false,
            Mode::Preen => !self.undecided,
            Mode::Yes | Mode::Ask(_) => !self.quit,
        }
    }

    /// Whether what is repaired is written in the end, as far as is known.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self.mode, Mode::Check) && !self.refuses
    }
}
