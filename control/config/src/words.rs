//! Words for people.

use std::fmt::Display;

/// A count with its noun, which is given in the singular: `1 service`, `0 services`, `2 local addresses`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    if count == N::from(1) {
        return format!("1 {noun}");
    }
    let ending = if noun.ends_with('s') { "es" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// The first ones of a list, and how many more there are: `a, b, and 3 more`.
pub fn listed(mut items: impl ExactSizeIterator<Item = String>, most: usize) -> String {
    let mut words: Vec<String> = items.by_ref().take(most).collect();
    if items.len() > 0 {
        words.push(format!("and {} more", items.len()));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        assert_eq!(
            [0_u64, 1, 2, 21].map(|count| counted(count, "service")),
            ["0 services", "1 service", "2 services", "21 services"]
        );
        assert_eq!([1_usize, 2].map(|count| counted(count, "address")), ["1 address", "2 addresses"]);
    }

    #[test]
    fn a_list_ends_with_how_many_more_there_are() {
        let said = |count: u8| listed((0..count).map(|item| item.to_string()), 3);
        assert_eq!([0, 1, 3, 5].map(said), ["", "0", "0, 1, 2", "0, 1, 2, and 2 more"]);
    }
}
