//! Sizes beyond which nobody reads: the last column of the table in ARCHITECTURE.md, "Limits".

use proc_macro2::Span;
use syn::visit::{self, Visit};

use super::Finding;
use super::source::Source;

const FILE_LINES: usize = 700;
const FUNCTION_LINES: usize = 80;
/// For one match whose arms are one expression each, under a comment [`FLAT`] that gives the reason.
const FLAT_LINES: usize = 120;
const FLAT: &str = "// Flat: ";
const ARGUMENTS: usize = 7;
const TRAIT_METHODS: usize = 12;
const STRUCT_FIELDS: usize = 16;
const ERROR_VARIANTS: usize = 20;

/// Everything in a file that is too large.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut sizes = Sizes { source, found: Vec::new(), of_trait: false };
    let lines = source.production_lines();
    sizes.compare(1, "the file", lines, "production lines", FILE_LINES);
    sizes.visit_file(&source.file);
    sizes.found
}

struct Sizes<'a> {
    source: &'a Source,
    found: Vec<Finding>,
    /// Inside of a trait's implementation, whose arguments are the trait's: ours are counted there.
    of_trait: bool,
}

impl Sizes<'_> {
    fn compare(&mut self, line: usize, who: &str, size: usize, of: &str, limit: usize) {
        if size > limit {
            let what = format!("{who} has {size} {of} (limit {limit})");
            self.found.push(Finding::new(&self.source.path, line, what));
        }
    }

    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let (name, line) = (format!("function {}", signature.ident), line_of(signature.fn_token.span));
        let end = body.brace_token.span.close().end().line;
        let limit = if is_flat(body) && self.has_reason(line) { FLAT_LINES } else { FUNCTION_LINES };
        self.compare(line, &name, self.code_lines(line, end), "lines", limit);
        if !self.of_trait {
            self.compare(line, &name, signature.inputs.len(), "arguments", ARGUMENTS);
        }
    }

    /// Lines from `first` to `last` that are neither blank nor only a comment.
    fn code_lines(&self, first: usize, last: usize) -> usize {
        let lines = self.source.lines.iter().take(last).skip(first - 1).map(|line| line.trim());
        lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
    }

    /// Whether a comment among the lines directly above `line` says why a function is flat.
    fn has_reason(&self, line: usize) -> bool {
        let above = self.source.lines.iter().take(line - 1).rev().map(|line| line.trim());
        let mut above = above.take_while(|line| line.starts_with("//") || line.starts_with("#["));
        above.any(|line| line.strip_prefix(FLAT).is_some_and(|reason| !reason.trim().is_empty()))
    }
}

/// Whether a body is one match whose arms are one expression each.
fn is_flat(body: &syn::Block) -> bool {
    let [syn::Stmt::Expr(syn::Expr::Match(the_match), _)] = body.stmts.as_slice() else { return false };
    the_match.arms.iter().all(|arm| match &*arm.body {
        syn::Expr::Block(block) => block.block.stmts.len() <= 1,
        _ => true,
    })
}

fn line_of(span: Span) -> usize {
    span.start().line
}

/// Whether an enum is an error: by its name, or by what it derives.
fn is_error(item: &syn::ItemEnum) -> bool {
    item.ident.to_string().ends_with("Error") || item.attrs.iter().any(derives_error)
}

fn derives_error(attribute: &syn::Attribute) -> bool {
    let mut derives = false;
    if attribute.path().is_ident("derive") {
        // What does not parse, the compiler has refused.
        let _ = attribute.parse_nested_meta(|meta| {
            derives |= meta.path.segments.last().is_some_and(|last| last.ident == "Error");
            Ok(())
        });
    }
    derives
}

impl<'ast> Visit<'ast> for Sizes<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let outside = std::mem::replace(&mut self.of_trait, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.of_trait = outside;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        let (name, line) = (format!("function {}", item.sig.ident), line_of(item.sig.fn_token.span));
        match &item.default {
            Some(body) => self.function(&item.sig, body),
            None => self.compare(line, &name, item.sig.inputs.len(), "arguments", ARGUMENTS),
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let methods = item.items.iter().filter(|item| matches!(item, syn::TraitItem::Fn(_))).count();
        let name = format!("trait {}", item.ident);
        self.compare(line_of(item.trait_token.span), &name, methods, "methods", TRAIT_METHODS);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let name = format!("struct {}", item.ident);
        self.compare(line_of(item.struct_token.span), &name, item.fields.len(), "fields", STRUCT_FIELDS);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        if is_error(item) {
            let (name, line) = (format!("error {}", item.ident), line_of(item.enum_token.span));
            self.compare(line, &name, item.variants.len(), "variants", ERROR_VARIANTS);
        }
        visit::visit_item_enum(self, item);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn found(text: &str) -> Vec<String> {
        let source = Source::parse(Path::new("a.rs"), text).expect("Rust");
        check(&source).iter().map(ToString::to_string).collect()
    }

    /// `n` lines, each made from its number.
    fn lines(n: usize, line: impl Fn(usize) -> String) -> String {
        (0..n).map(|i| line(i) + "\n").collect()
    }

    #[test]
    fn a_file_of_too_many_lines_is_found() {
        assert_eq!(found(&lines(700, |i| format!("const A{i}: u8 = 0;"))), [""; 0]);
        let long = lines(701, |i| format!("const A{i}: u8 = 0;"));
        assert_eq!(found(&long), ["a.rs:1: the file has 701 production lines (limit 700)"]);
    }

    #[test]
    fn a_long_function_is_found_where_it_begins_and_its_comments_do_not_count() {
        let body = |n| format!("\nimpl A {{\nfn f() {{\n// why\n\n{}}}\n}}\n", lines(n, |_| "g();".into()));
        assert_eq!(found(&body(78)), [""; 0]);
        assert_eq!(found(&body(79)), ["a.rs:3: function f has 81 lines (limit 80)"]);
    }

    #[test]
    fn a_flat_match_may_be_longer_if_it_says_why() {
        let flat = |n, arm: &str| {
            format!(
                "fn f(x: u8) {{\nmatch x {{\n{}_ => g(),\n}}\n}}\n",
                lines(n, |i| format!("{i} => {arm},"))
            )
        };
        let reason = "// Flat: one arm a register\n";
        assert_eq!(found(&format!("{reason}#[inline]\n{}", flat(110, "g()"))), [""; 0]);
        assert_eq!(found(&flat(110, "g()")), ["a.rs:1: function f has 115 lines (limit 80)"]);
        assert_eq!(found(&format!("{reason}{}", flat(116, "g()"))).len(), 1);
        assert_eq!(found(&format!("{reason}{}", flat(110, "{ g(); h() }"))).len(), 1, "not flat");
        assert_eq!(found(&format!("// Flat: \n{}", flat(110, "g()"))).len(), 1, "no reason");
    }

    #[test]
    fn arguments_that_another_crates_trait_asks_for_are_not_held_against_its_implementation() {
        let text = "impl Wide for Us { fn f(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) {} }\n";
        assert_eq!(found(text), Vec::<String>::new());
    }

    #[test]
    fn too_many_arguments_are_found_in_traits_too() {
        let eight = "a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8";
        let text = format!("fn f({eight}) {{}}\ntrait T {{\nfn g({eight});\nfn h({eight}) {{}}\n}}\n");
        let function = |line, name| format!("a.rs:{line}: function {name} has 8 arguments (limit 7)");
        assert_eq!(found(&text), [function(1, "f"), function(3, "g"), function(4, "h")]);
    }

    #[test]
    fn wide_traits_structs_and_errors_are_found() {
        let text = format!("trait T {{\n{}}}\n", lines(13, |i| format!("fn f{i}();")));
        assert_eq!(found(&text), ["a.rs:1: trait T has 13 methods (limit 12)"]);
        let text = format!("struct S {{\n{}}}\n", lines(17, |i| format!("a{i}: u8,")));
        assert_eq!(found(&text), ["a.rs:1: struct S has 17 fields (limit 16)"]);
        let variants = lines(21, |i| format!("A{i},"));
        let text = format!("enum BadError {{\n{variants}}}\nenum Kind {{\n{variants}}}\n");
        assert_eq!(found(&text), ["a.rs:1: error BadError has 21 variants (limit 20)"]);
        let text = format!("#[derive(Debug, thiserror::Error)]\nenum Failure {{\n{variants}}}\n");
        assert_eq!(found(&text), ["a.rs:2: error Failure has 21 variants (limit 20)"]);
    }
}
