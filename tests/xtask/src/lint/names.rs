//! Names that belong to certain files: `unsafe`, `clap`, `anyhow`.

use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;

use super::Finding;
use super::metadata::Metadata;
use super::source::Source;

/// Files in which unsafe code is at home.
const UNSAFE_FILES: [&str; 2] = ["sys.rs", "abi.rs"];
/// And by their whole path.
const UNSAFE_PLACES: [&str; 2] = ["vmm/src/kvm", "devices/src/memory.rs"];

/// Every such name outside of its files.
pub(super) fn check(source: &Source, metadata: &Metadata) -> Vec<Finding> {
    let (may_be_unsafe, is_binary) =
        (is_home_of_unsafe(&source.path), is_of_a_binary(&source.path, metadata));
    let mut found = Vec::new();
    each_word(source.file.to_token_stream(), &mut |word, line| {
        let what = match word {
            "unsafe" | "unsafe_code" if !may_be_unsafe => {
                format!("{word} (limit: sys.rs, abi.rs, vmm/src/kvm/, devices/src/memory.rs)")
            }
            "clap" if !is_binary => "clap in a library (limit: main.rs and cli of a binary)".to_owned(),
            "anyhow" if !is_binary => "anyhow in a library (limit: an error type a module)".to_owned(),
            _ => return,
        };
        found.push(Finding::new(&source.path, line, what));
    });
    found
}

fn is_home_of_unsafe(path: &Path) -> bool {
    UNSAFE_PLACES.iter().any(|place| path.starts_with(place))
        || path.file_name().is_some_and(|name| UNSAFE_FILES.iter().any(|file| name == *file))
}

/// Whether no library holds the file: a program's entry, its command line, or all of a crate that is no library.
fn is_of_a_binary(path: &Path, metadata: &Metadata) -> bool {
    let by_name = path.ends_with("main.rs") || path.ends_with("cli.rs");
    let by_folder = path.components().any(|part| part.as_os_str() == "cli");
    by_name || by_folder || metadata.owner(path).is_some_and(|package| !package.is_library())
}

/// Calls `told` with every identifier and keyword, inside of macros too, and the line it is on.
fn each_word(tokens: TokenStream, told: &mut impl FnMut(&str, usize)) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => each_word(group.stream(), told),
            TokenTree::Ident(word) => told(&word.to_string(), word.span().start().line),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::workspace;
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let metadata = workspace(&[
            ("vmm", "vmm", "lib", &[]),
            ("guest", "guest", "lib", &[]),
            ("tests/xtask", "x", "bin", &[]),
        ]);
        let source = Source::parse(Path::new(path), text).expect("Rust");
        check(&source, &metadata).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unsafe_code_is_found_outside_of_its_files_and_in_macros_too() {
        let text = "fn f() {\n    call!(unsafe { g() });\n}\n#[allow(unsafe_code)]\nmod m {}\n";
        let lines = found("vmm/src/plug.rs", text);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("vmm/src/plug.rs:2: unsafe (limit: sys.rs"));
        assert!(lines[1].starts_with("vmm/src/plug.rs:4: unsafe_code"));
        for home in ["vmm/src/kvm/vm.rs", "vmm/src/ram/sys.rs", "vsock/src/abi.rs", "devices/src/memory.rs"] {
            assert_eq!(found(home, text), [""; 0], "{home}");
        }
    }

    #[test]
    fn words_in_comments_and_strings_are_none() {
        assert_eq!(found("vmm/src/a.rs", "//! unsafe, clap\nconst A: &str = \"anyhow\";\n"), [""; 0]);
    }

    #[test]
    fn clap_and_anyhow_stay_out_of_libraries() {
        let text = "use clap::Parser;\nuse anyhow::Result;\n";
        assert_eq!(found("guest/src/build.rs", text).len(), 2);
        for binary in ["guest/src/main.rs", "vmm/src/cli/flags.rs", "tests/xtask/src/boot.rs"] {
            assert_eq!(found(binary, text), [""; 0], "{binary}");
        }
    }
}
