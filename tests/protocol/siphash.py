"""SipHash-2-4 with 64 bits of output, from the paper of Aumasson and Bernstein (2012). For the tags of sections 2, 6 and 7; not fast."""

_MASK = (1 << 64) - 1


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK


class _State:
    def __init__(self, key: bytes) -> None:
        k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
        self.v = [
            k0 ^ 0x736F6D6570736575,
            k1 ^ 0x646F72616E646F6D,
            k0 ^ 0x6C7967656E657261,
            k1 ^ 0x7465646279746573,
        ]

    def round(self) -> None:
        a, b, c, d = self.v
        a = (a + b) & _MASK
        c = (c + d) & _MASK
        b = _rotate(b, 13) ^ a
        d = _rotate(d, 16) ^ c
        a = _rotate(a, 32)
        c = (c + b) & _MASK
        a = (a + d) & _MASK
        b = _rotate(b, 17) ^ c
        d = _rotate(d, 21) ^ a
        self.v = [a, b, _rotate(c, 32), d]

    def compress(self, word: int) -> None:
        self.v[3] ^= word
        self.round()
        self.round()
        self.v[0] ^= word


def siphash24(key: bytes, message: bytes) -> int:
    """Return the tag as a number; `key` has 16 bytes."""
    state = _State(key)
    whole = len(message) // 8 * 8
    for start in range(0, whole, 8):
        state.compress(int.from_bytes(message[start : start + 8], "little"))
    state.compress(int.from_bytes(message[whole:], "little") | (len(message) & 0xFF) << 56)
    state.v[2] ^= 0xFF
    for _ in range(4):
        state.round()
    a, b, c, d = state.v
    return a ^ b ^ c ^ d
