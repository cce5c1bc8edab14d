//! The other end of a test's connections: see `tests::peer`.

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    tests::peer::run(&words);
}
