//! The `.modinfo` section of a kernel module: `key=value` strings, each ended by NUL.

/// The values of `key` in a module, in order. A file that is no ELF has none.
pub(crate) fn values<'a>(module: &'a [u8], key: &str) -> Vec<&'a str> {
    let section = section(module, b".modinfo").unwrap_or_default();
    section
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix(key)?.strip_prefix('='))
        .collect()
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    let value = field.iter().rev().try_fold(0u64, |value, byte| Some((value << 8) | u64::from(*byte)))?;
    usize::try_from(value).ok()
}

/// A section's bytes, by name (ELF64, little endian).
fn section<'a>(file: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (start, size) = (number(file, 40, 8)?, number(file, 58, 2)?);
    let (count, names_index) = (number(file, 60, 2)?, number(file, 62, 2)?);
    let header = |index: usize| file.get(start.checked_add(index.checked_mul(size)?)?..);
    let content = |header: &[u8]| {
        let offset = number(header, 24, 8)?;
        file.get(offset..offset.checked_add(number(header, 32, 8)?)?)
    };
    let names = content(header(names_index)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let own_name = names.get(number(header, 0, 4)?..)?;
        let matches = own_name.starts_with(name) && own_name.get(name.len()) == Some(&0);
        matches.then(|| content(header)).flatten()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with a `.modinfo` section and nothing else of a module.
    pub(crate) fn module(strings: &[&str]) -> Vec<u8> {
        let info: Vec<u8> = strings.iter().flat_map(|string| string.bytes().chain([0])).collect();
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(64, 0);
        let headers_at = 64 + info.len() + names.len();
        out[40..48].copy_from_slice(&(headers_at as u64).to_le_bytes());
        out[58..64].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        out.extend(&info);
        out.extend(names);
        out.resize(headers_at + 64, 0);
        for (name, start, size) in [(1u8, 64, info.len()), (10, 64 + info.len(), names.len())] {
            let mut header = [0; 64];
            header[0] = name;
            header[24..32].copy_from_slice(&(start as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            out.extend(header);
        }
        out
    }

    #[test]
    fn every_value_of_a_key_is_found() {
        let file = module(&["license=GPL", "alias=a", "depends=x,y", "alias=b", "aliases=no"]);
        assert_eq!(values(&file, "alias"), ["a", "b"]);
        assert_eq!(values(&file, "depends"), ["x,y"]);
    }

    #[test]
    fn a_cut_or_foreign_file_has_no_values() {
        let file = module(&["depends=x"]);
        for length in 0..file.len() - 64 {
            assert!(values(&file[..length], "depends").is_empty());
        }
        assert!(values(b"text", "depends").is_empty());
    }
}
