//! Kinds of text to measure with.

use crate::corpus::{Random, WORDS, harmless, sentence};

/// Makes one value of a kind of text.
pub(crate) type Text = fn(&mut Random) -> String;

/// What tables mostly hold, with next to nothing to recognise.
pub(crate) const CLEAN: [(&str, Text); 3] = [
    ("short cells, numbers and words", |random| harmless(random).0),
    ("prose, 4 KiB a cell", |random| text_of(random, 4096)),
    ("JSON, 1 KiB a cell", document),
];

fn text_of(random: &mut Random, size: usize) -> String {
    let mut text = String::new();
    while text.len() < size {
        text += &sentence(random);
        text += ". ";
    }
    text
}

fn document(random: &mut Random) -> String {
    let mut items = Vec::new();
    while items.len() < 12 {
        let (key, id, text) = (random.one(WORDS), random.digits(8), sentence(random));
        items.push(format!("\"{key}\": {{\"id\": {id}, \"note\": \"{text}\", \"done\": false}}"));
    }
    format!("{{{}}}", items.join(", "))
}
