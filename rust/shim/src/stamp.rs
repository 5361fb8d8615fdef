//! Times as the log has them: `2026-11-21T10:00:00.123456789Z`.

/// Bytes of a time.
pub const STAMP_BYTES: usize = 30;

const SECOND_NS: u64 = 1_000_000_000;
const DAY_S: u64 = 86_400;

/// Formats times; the part down to the second is kept between calls.
pub struct Stamp {
    second: u64,
    text: [u8; STAMP_BYTES],
}

impl Stamp {
    /// Starts at 1970.
    pub fn new() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000000000Z" }
    }

    /// A time in nanoseconds since 1970, up to the year 2554.
    pub fn format(&mut self, time_ns: u64) -> &[u8; STAMP_BYTES] {
        let second = time_ns / SECOND_NS;
        if second != self.second {
            self.second = second;
            let (year, month, day) = civil(second / DAY_S);
            let rest = second % DAY_S;
            for (at, width, value) in [
                (0, 4, year),
                (5, 2, month),
                (8, 2, day),
                (11, 2, rest / 3600),
                (14, 2, rest / 60 % 60),
                (17, 2, rest % 60),
            ] {
                digits(&mut self.text[at..at + width], value);
            }
        }
        digits(&mut self.text[20..29], time_ns % SECOND_NS);
        &self.text
    }
}

/// Reads a time back; `None` if it is none.
pub fn parse(text: &[u8]) -> Option<u64> {
    let text = text.get(..STAMP_BYTES)?;
    let field = |at: usize, width: usize| -> Option<u64> {
        text[at..at + width].iter().try_fold(0, |value: u64, &byte| {
            byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0'))
        })
    };
    if (text[10], text[19], text[29]) != (b'T', b'.', b'Z') {
        return None;
    }
    let days = days_from_civil(field(0, 4)?, field(5, 2)?, field(8, 2)?)?;
    let seconds = days * DAY_S + field(11, 2)? * 3600 + field(14, 2)? * 60 + field(17, 2)?;
    Some(seconds * SECOND_NS + field(20, 9)?)
}

fn digits(out: &mut [u8], value: u64) {
    let mut value = value;
    for byte in out.iter_mut().rev() {
        *byte = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Year, month and day of a day since 1970, in the proleptic Gregorian calendar. Years are counted from March, so that the
/// leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=2554).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let mut stamp = Stamp::new();
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_795_255_200_123_456_789, "2026-11-21T10:00:00.123456789Z"),
            (4_107_542_399_999_999_999, "2100-02-28T23:59:59.999999999Z"),
        ] {
            assert_eq!(std::str::from_utf8(stamp.format(ns)).unwrap(), text);
            assert_eq!(parse(text.as_bytes()), Some(ns));
        }
    }

    #[test]
    fn every_day_there_and_back() {
        let mut stamp = Stamp::new();
        for day in 0..200_000 {
            let ns = day * DAY_S * SECOND_NS + 7;
            assert_eq!(parse(stamp.format(ns)), Some(ns));
        }
    }

    #[test]
    fn nonsense_is_no_time() {
        for text in ["", "2026-11-21", "2026-13-21T10:00:00.123456789Z", "xxxx-11-21T10:00:00.123456789Z"] {
            assert_eq!(parse(text.as_bytes()), None);
        }
    }
}
