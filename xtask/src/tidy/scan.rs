//! Reads one Rust file as tokens: the paths it names, and where it says `unsafe`.
//!
//! Items under `#[cfg(test)]` are left out. Macro-made names are not seen: this is a help against drift, not a
//! proof.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path as written, with the groups of a `use` multiplied out: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
pub(super) struct NamedPath {
    pub(super) words: Vec<String>,
    pub(super) line: usize,
}

#[derive(Default)]
pub(super) struct Source {
    pub(super) paths: Vec<NamedPath>,
    pub(super) unsafe_lines: Vec<usize>,
}

pub(super) fn scan(text: &str) -> Result<Source> {
    let tokens: TokenStream = text.parse().map_err(|error| anyhow!("{error}"))?;
    let mut source = Source::default();
    walk(tokens, &mut source);
    Ok(source)
}

fn walk(tokens: TokenStream, source: &mut Source) {
    let mut tokens = tokens.into_iter().peekable();
    let mut skip_item = false;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(TokenTree::Group(attribute)) = tokens.peek() {
                    skip_item |= is_cfg_test(attribute);
                    tokens.next();
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => skip_item = false,
            TokenTree::Group(group) => {
                if !skip_item {
                    walk(group.stream(), source);
                }
                // An item ends with its braces; parameter lists and tuples go on.
                skip_item &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Ident(word) if !skip_item => {
                let line = word.span().start().line;
                if word == "unsafe" {
                    source.unsafe_lines.push(line);
                    continue;
                }
                path(vec![word.to_string()], line, &mut tokens, source);
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

type Tokens = std::iter::Peekable<proc_macro2::token_stream::IntoIter>;

/// Goes on with a path whose first words are known, and stores it, or each branch of it.
fn path(mut words: Vec<String>, line: usize, tokens: &mut Tokens, source: &mut Source) {
    while is_colon(tokens.peek()) {
        tokens.next();
        if !is_colon(tokens.peek()) {
            break;
        }
        tokens.next();
        match tokens.peek() {
            Some(TokenTree::Ident(word)) => {
                words.push(word.to_string());
                tokens.next();
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let branches = group.stream();
                tokens.next();
                return branch(&words, line, branches, source);
            }
            _ => break,
        }
    }
    source.paths.push(NamedPath { words, line });
}

fn branch(stem: &[String], line: usize, branches: TokenStream, source: &mut Source) {
    let mut tokens = branches.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if let TokenTree::Ident(word) = token {
            let mut words = stem.to_vec();
            if word != "self" {
                words.push(word.to_string());
            }
            path(words, line, &mut tokens, source);
        }
    }
}

fn is_colon(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

fn is_cfg_test(attribute: &Group) -> bool {
    attribute.delimiter() == Delimiter::Bracket
        && attribute.stream().to_string().replace(' ', "").starts_with("cfg(test")
}
