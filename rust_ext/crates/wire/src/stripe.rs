//! A fast flow on further streams (section 4): STRIPE at the beginning of each says whose it is, then chunks say where in the flow
//! their bytes belong. Encodings only; when a flow is striped is the tunnel's business.

/// STRIPE with its frame, in bytes.
pub const STRIPE_LENGTH: usize = 11;

/// What stands before the bytes of a chunk, in bytes.
pub const CHUNK_HEADER_LENGTH: usize = 12;

/// The most stripes that one direction of a flow has.
pub const MAX_STRIPES: usize = 16;

const STRIPE: u8 = 0x23;

/// STRIPE for the flow whose own stream has this QUIC id.
#[must_use]
pub fn encode_stripe(stream: u64) -> [u8; STRIPE_LENGTH] {
    let mut message = [0; STRIPE_LENGTH];
    message[..3].copy_from_slice(&[STRIPE, 0, 8]);
    message[3..].copy_from_slice(&stream.to_be_bytes());
    message
}

/// The QUIC id of the flow's own stream; `None`: this is no STRIPE.
#[must_use]
pub fn decode_stripe(message: &[u8; STRIPE_LENGTH]) -> Option<u64> {
    let (frame, body) = message.split_first_chunk::<3>()?;
    (*frame == [STRIPE, 0, 8]).then_some(u64::from_be_bytes(*body.first_chunk()?))
}

/// What stands before the bytes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Where its bytes belong, counted from the flow's first byte in this direction.
    pub offset: u64,
    /// How many there are; 0: the flow ends at `offset`.
    pub length: u32,
}

impl ChunkHeader {
    /// As it stands on the stream.
    #[must_use]
    pub fn encode(self) -> [u8; CHUNK_HEADER_LENGTH] {
        let mut header = [0; CHUNK_HEADER_LENGTH];
        header[..8].copy_from_slice(&self.offset.to_be_bytes());
        header[8..].copy_from_slice(&self.length.to_be_bytes());
        header
    }

    /// Any twelve bytes are a header.
    #[must_use]
    pub fn decode(header: &[u8; CHUNK_HEADER_LENGTH]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *header;
        Self {
            offset: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            length: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else_is_a_stripe() {
        let message = encode_stripe(0x0102_0304_0506_0708);
        assert_eq!(decode_stripe(&message), Some(0x0102_0304_0506_0708));
        for place in 0..3 {
            let mut other = message;
            other[place] ^= 1;
            assert_eq!(decode_stripe(&other), None);
        }
        let header = ChunkHeader { offset: 1 << 40, length: 16_384 };
        assert_eq!(ChunkHeader::decode(&header.encode()), header);
    }
}
