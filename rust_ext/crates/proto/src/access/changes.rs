//! Many numbers in ascending order, and how many of them are not above another one: in a few steps, however they lie.
//!
//! A node divides the stretch from its first number to its last into equal parts, about one for two numbers. A part with few numbers is
//! looked through; one with many is a node itself, which divides what *it* spans. Numbers that lie evenly need one node; those that lie in
//! clusters need one more for each cluster. A binary search would touch memory that is not in the cache some fifteen times.

/// A number that can be divided by: 32 or 64 bits.
pub(super) trait Number: Copy + Ord {
    /// How far it lies behind `first`, in parts of `2^shift`.
    fn part(self, first: Self, shift: u32) -> usize;
    /// Bits that it takes to write how far it lies behind `first`.
    fn bits_behind(self, first: Self) -> u32;
}

macro_rules! number {
    ($type:ty) => {
        impl Number for $type {
            fn part(self, first: Self, shift: u32) -> usize {
                usize::try_from((self - first) >> shift).unwrap_or(usize::MAX)
            }

            fn bits_behind(self, first: Self) -> u32 {
                Self::BITS - (self - first).leading_zeros()
            }
        }
    };
}

number!(u32);
number!(u64);

/// Numbers of one part that are looked through; a part with more is a node.
pub(super) const FEW: usize = 8;

/// Numbers for each part of a node, on average.
const PER_PART: usize = 2;

/// Marks a slot as the number of a node; else it is how many numbers lie before its part.
const NODE: u32 = 1 << 31;

/// One division.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node<K> {
    first: K,
    /// Numbers before it.
    before: u32,
    /// Its parts begin here in the slots.
    slots: u32,
    /// Of its parts the last one.
    last_part: u32,
    /// A part spans `2^shift`.
    shift: u32,
}

/// The numbers, no two of them equal, and the divisions above them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changes<K> {
    numbers: Box<[K]>,
    /// The root comes first; none if the numbers are few.
    nodes: Vec<Node<K>>,
    slots: Vec<u32>,
}

impl<K: Number> Changes<K> {
    /// Of numbers in ascending order, fewer than `2^31`.
    pub(super) fn new(numbers: Vec<K>) -> Self {
        let mut made = Self { numbers: numbers.into_boxed_slice(), nodes: Vec::new(), slots: Vec::new() };
        // Behind which number each node ends. Nodes are added while the earlier ones are gone through.
        let mut ends = Vec::new();
        if made.numbers.len() > FEW {
            made.divide(0, made.numbers.len());
            ends.push(made.numbers.len());
        }
        let mut index = 0;
        while let Some(&Node { slots, last_part, .. }) = made.nodes.get(index) {
            for slot in slots..=slots + last_part {
                let begin = made.slots[slot as usize] as usize;
                let is_last = slot == slots + last_part;
                let end = if is_last { ends[index] } else { made.slots[slot as usize + 1] as usize };
                if end - begin > FEW {
                    made.slots[slot as usize] = NODE | made.nodes.len() as u32;
                    made.divide(begin, end);
                    ends.push(end);
                }
            }
            index += 1;
        }
        made.nodes.shrink_to_fit();
        made.slots.shrink_to_fit();
        made
    }

    /// Add a node for the numbers from `begin` on, before `end`. Its slots say how many numbers lie before each part.
    fn divide(&mut self, begin: usize, end: usize) {
        let numbers = &self.numbers[begin..end];
        let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
        let parts_bits = (numbers.len() / PER_PART).next_power_of_two().trailing_zeros();
        let shift = last.bits_behind(first).saturating_sub(parts_bits);
        let last_part = last.part(first, shift);
        let slots = self.slots.len() as u32;
        self.nodes.push(Node { first, before: begin as u32, slots, last_part: last_part as u32, shift });
        let mut index = 0;
        for part in 0..=last_part {
            while numbers[index].part(first, shift) < part {
                index += 1;
            }
            self.slots.push((begin + index) as u32);
        }
    }

    /// How many of the numbers are not above `key`.
    pub(super) fn up_to(&self, key: K) -> usize {
        let begin = match self.nodes.first() {
            None => 0,
            Some(root) => match self.find(root, key) {
                Ok(begin) => begin,
                Err(count) => return count,
            },
        };
        // Each is compared: where a search would turn cannot be foretold, and a wrong guess costs the processor more than all of them.
        let few: Option<&[K; FEW]> = self.numbers[begin..].first_chunk();
        let count = match few {
            Some(few) => few.iter().map(|number| usize::from(*number <= key)).sum(),
            None => self.numbers[begin..].partition_point(|number| *number <= key),
        };
        begin + count
    }

    /// From where on at most [`FEW`] numbers are to be looked through; Err: as many numbers lie before the key.
    fn find(&self, root: &Node<K>, key: K) -> Result<usize, usize> {
        let mut node = root;
        loop {
            if key < node.first {
                return Err(node.before as usize);
            }
            let part = key.part(node.first, node.shift).min(node.last_part as usize);
            let slot = self.slots[node.slots as usize + part];
            if slot & NODE == 0 {
                return Ok(slot as usize);
            }
            node = &self.nodes[(slot & !NODE) as usize];
        }
    }

    /// The number before which `index` others come.
    pub(super) fn get(&self, index: usize) -> Option<K> {
        self.numbers.get(index).copied()
    }

    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val::<[K]>(&self.numbers)
            + self.nodes.capacity() * size_of::<Node<K>>()
            + self.slots.capacity() * size_of::<u32>()
    }
}
