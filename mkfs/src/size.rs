/// Reads a size as people write it: 4096, 10G, 1.5TiB, 500GB. One letter and `iB` count in 1024s,
/// `B` after a letter in 1000s.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size; write 4096, 10G, 1.5TiB or 500GB");
    let text_trimmed = text.trim();
    let digits = text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text_trimmed.split_at(digits.unwrap_or(text_trimmed.len()));
    let unit = unit.trim().to_ascii_lowercase();
    let (letter, rest) = unit.split_at(usize::from(!unit.is_empty() && unit != "b"));
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let base: u64 = match rest {
        "" | "ib" => 1024,
        "b" => 1000,
        _ => return Err(wrong()),
    };
    let unit = base.checked_pow(power).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let mut bytes = whole.checked_mul(unit).ok_or_else(wrong)?;
    if !fraction.is_empty() {
        if fraction.len() > 9 || power == 0 {
            return Err(wrong());
        }
        let scale = 10_u128.pow(fraction.len() as u32);
        let part: u128 = fraction.parse().map_err(|_| wrong())?;
        bytes += (part * u128::from(unit) / scale) as u64;
    }
    Ok(bytes)
}

/// A size as people read it.
pub(crate) fn show(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..units.len())
        .rev()
        .find(|&power| bytes >> (10 * power) > 0)
        .unwrap_or(0);
    if power == 0 {
        return format!("{bytes} bytes");
    }
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {}", units[power]),
        (whole, tenth) => format!("{whole}.{tenth} {}", units[power]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("4096", 4096),
            ("512k", 512 << 10),
            ("10G", 10 << 30),
            ("1TiB", 1 << 40),
            ("1.5 TiB", 3 << 39),
            ("500GB", 500_000_000_000),
            ("7B", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "10X", "1.2.3G", "-5G", "99999999T", "1.5", "10Gi"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_as_people_read_them() {
        assert_eq!(show(512), "512 bytes");
        assert_eq!(show(2_181_038_592), "2 GiB");
        assert_eq!(show(3 << 39), "1.5 TiB");
    }
}
