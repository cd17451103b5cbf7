//! SHA-256 (FIPS 180-4) of what is hashed for every record: little, and of a known length as a rule.
//!
//! Section 5.1.1's padding is made here, so that a short message is compressed where it stands and not by way of a
//! buffer that takes messages in parts of any length.

use sha2::{Digest as _, Sha256, compress256};

use super::format::Hash;

/// Bytes of a block.
const BLOCK: usize = 64;

/// The longest message that two blocks hold: a bit and the length come behind it.
const SHORT: usize = 2 * BLOCK - 9;

/// Section 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Of the parts, one behind the other.
pub(super) fn sha256<const N: usize>(parts: [&[u8]; N]) -> Hash {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > SHORT {
        return parts.iter().fold(Sha256::new(), Sha256::chain_update).finalize().into();
    }
    let mut message = [0; 2 * BLOCK];
    let mut rest = message.as_mut_slice();
    for part in parts.into_iter().chain([&[0x80][..]]) {
        let Some((to, behind)) = rest.split_at_mut_checked(part.len()) else { break };
        to.copy_from_slice(part);
        rest = behind;
    }
    let used = (length + 9).div_ceil(BLOCK);
    let (blocks, _) = message.as_chunks_mut::<BLOCK>();
    if let Some(to) = blocks.get_mut(used - 1).and_then(|last| last.last_chunk_mut()) {
        *to = (length as u64 * 8).to_be_bytes();
    }
    let mut state = INITIAL;
    for block in blocks.iter().take(used) {
        compress256(&mut state, std::slice::from_ref(block.into()));
    }
    let mut hash = [0; 32];
    for (to, word) in hash.as_chunks_mut().0.iter_mut().zip(state) {
        *to = word.to_be_bytes();
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_every_cut_has_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (1..=200).collect();
        for length in 0..bytes.len() {
            let (whole, _) = bytes.split_at(length);
            let expected: Hash = Sha256::digest(whole).into();
            for cut in 0..=length {
                let (one, other) = whole.split_at(cut);
                assert_eq!(sha256([one, other]), expected, "{cut} of {length}");
            }
            assert_eq!(sha256([whole]), expected, "{length}");
        }
    }
}
