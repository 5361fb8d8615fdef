//! Typed access to JSON objects, with errors that name the member.

use serde_json::Value;

use crate::error::{Error, Result};

/// Reads a payload as one object; an empty one counts as `{}`.
pub fn parse(payload: &[u8]) -> Result<Value> {
    if payload.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_slice(payload) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Error::new("payload is not a JSON object")),
        Err(error) => Err(Error::new(format!("payload is not JSON: {error}"))),
    }
}

fn wrong(key: &str, expected: &str) -> Error {
    Error::new(format!("member {key:?} is not {expected}"))
}

/// A member that is there and not null.
pub fn member<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|member| !member.is_null())
}

pub fn string<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).ok_or_else(|| wrong(key, "a string"))
}

pub fn optional_string<'a>(value: &'a Value, key: &str) -> Result<Option<&'a str>> {
    member(value, key).map(|_| string(value, key)).transpose()
}

pub fn boolean(value: &Value, key: &str) -> Result<bool> {
    member(value, key).map_or(Ok(false), |member| member.as_bool().ok_or_else(|| wrong(key, "true or false")))
}

/// A whole number within the range of `T`.
pub fn integer<T: TryFrom<i64>>(value: &Value, key: &str) -> Result<T> {
    let number = value.get(key).and_then(Value::as_i64);
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| wrong(key, "a number in range"))
}

pub fn optional_integer<T: TryFrom<i64>>(value: &Value, key: &str) -> Result<Option<T>> {
    member(value, key).map(|_| integer(value, key)).transpose()
}

/// The items of a list; none if it is absent.
pub fn list<T>(value: &Value, key: &str, item: impl FnMut(&Value) -> Result<T>) -> Result<Vec<T>> {
    let Some(member) = member(value, key) else { return Ok(Vec::new()) };
    member.as_array().ok_or_else(|| wrong(key, "a list"))?.iter().map(item).collect()
}

pub fn strings(value: &Value, key: &str) -> Result<Vec<String>> {
    list(value, key, |item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(key, "a list of strings")))
}

/// Bytes of standard base64; padding may be missing.
pub fn base64(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(Error::new("not base64")),
        };
        bits = (bits << 6 | u32::from(six)) & 0x00ff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn base64_is_decoded_with_and_without_padding() {
        assert_eq!(base64("").unwrap(), b"");
        assert_eq!(base64("bWlkZ2U=").unwrap(), b"midge");
        assert_eq!(base64("bWlkZ2U").unwrap(), b"midge");
        assert_eq!(base64("//79").unwrap(), [0xff, 0xfe, 0xfd]);
        assert!(base64("a b").is_err());
    }

    #[test]
    fn wrong_types_name_the_member() {
        let value = json!({"a": 1, "b": "x", "c": null, "d": [1]});
        assert_eq!(string(&value, "a").unwrap_err().to_string(), "member \"a\" is not a string");
        assert_eq!(optional_string(&value, "c").unwrap(), None);
        assert!(integer::<u8>(&json!({"n": 256}), "n").is_err());
        assert!(integer::<u32>(&json!({"n": -1}), "n").is_err());
        assert!(strings(&value, "d").is_err());
        assert!(parse(b"[]").is_err());
        assert!(parse(b"").is_ok());
    }
}
