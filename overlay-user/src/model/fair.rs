//! Sharing of what is bounded between networks: one that asks for much takes nothing from the others.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use super::Vni;

/// Whether a network that has `own` of `taken` places may have one more of `capacity`.
///
/// It may have as many as are free (dynamic thresholds, Choudhury and Hahne 1998): alone it gets half
/// of them, and whoever comes while others have all that they may still finds places.
#[must_use]
pub const fn has_room(capacity: usize, taken: usize, own: usize) -> bool {
    own < capacity.saturating_sub(taken)
}

/// A bounded queue that networks take turns in.
#[derive(Debug)]
pub struct FairQueue<T> {
    capacity: usize,
    len: usize,
    /// None of them is empty.
    queues: BTreeMap<Vni, VecDeque<T>>,
    /// Each network that has something to wait for, once, in the order of their turns.
    turns: VecDeque<Vni>,
}

impl<T> FairQueue<T> {
    /// An empty queue for so many items.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self {
            capacity,
            len: 0,
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
        }
    }

    /// How many items wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an item behind its network's others. `false`: the network has all the places that it may.
    #[must_use]
    pub fn push(&mut self, vni: Vni, item: T) -> bool {
        let own = self.queues.get(&vni).map_or(0, VecDeque::len);
        let is_in = has_room(self.capacity, self.len, own);
        if is_in {
            self.force(vni, item);
        }
        is_in
    }

    /// The same for an item that must not be lost, whatever room there is.
    pub fn force(&mut self, vni: Vni, item: T) {
        let queue = self.queues.entry(vni).or_default();
        if queue.is_empty() {
            self.turns.push_back(vni);
        }
        queue.push_back(item);
        self.len += 1;
    }

    /// Takes the first item of the network whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_of(|_| true)
    }

    /// The same for the first network in turn that `may` have its turn.
    pub fn pop_of(&mut self, may: impl Fn(Vni) -> bool) -> Option<T> {
        let position = self.turns.iter().position(|vni| may(*vni))?;
        let vni = self.turns.remove(position)?;
        let queue = self.queues.get_mut(&vni)?;
        let item = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&vni);
        } else {
            self.turns.push_back(vni);
        }
        self.len -= 1;
        Some(item)
    }
}

/// Keys of networks with a mark each, a moment for example, by which they are in order.
///
/// Knows the first of all, and the first of the network that has most: what goes when there is no
/// room for more.
#[derive(Debug)]
pub struct FairMap<K, M> {
    marks: BTreeMap<K, (Vni, M)>,
    networks: BTreeMap<Vni, BTreeSet<(M, K)>>,
    /// The first mark of each network.
    firsts: BTreeSet<(M, Vni)>,
    /// How many each network has. Of those that have as many, the one whose first mark is the lowest
    /// comes last: a network's only key would go again and again before those of the others.
    sizes: BTreeSet<(usize, Reverse<M>, Vni)>,
}

impl<K, M> Default for FairMap<K, M> {
    fn default() -> Self {
        Self {
            marks: BTreeMap::new(),
            networks: BTreeMap::new(),
            firsts: BTreeSet::new(),
            sizes: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone, M: Ord + Copy> FairMap<K, M> {
    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// A key's network and mark.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<(Vni, M)> {
        self.marks.get(key).copied()
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.marks.keys()
    }

    /// Puts a key in, in the place of itself if it is there.
    pub fn insert(&mut self, key: K, vni: Vni, mark: M) {
        self.remove(&key);
        self.marks.insert(key.clone(), (vni, mark));
        self.change(vni, |keys| {
            keys.insert((mark, key));
        });
    }

    /// Takes a key out. Gives its network and mark.
    pub fn remove(&mut self, key: &K) -> Option<(Vni, M)> {
        let (vni, mark) = self.marks.remove(key)?;
        self.change(vni, |keys| {
            keys.remove(&(mark, key.clone()));
        });
        Some((vni, mark))
    }

    /// The key with the lowest mark.
    #[must_use]
    pub fn first(&self) -> Option<(M, &K)> {
        let (_, vni) = self.firsts.first()?;
        self.first_of(*vni)
    }

    /// The key with the lowest mark of the network that has most.
    #[must_use]
    pub fn first_of_largest(&self) -> Option<(M, &K)> {
        let (.., vni) = self.sizes.last()?;
        self.first_of(*vni)
    }

    fn first_of(&self, vni: Vni) -> Option<(M, &K)> {
        let (mark, key) = self.networks.get(&vni)?.first()?;
        Some((*mark, key))
    }

    /// Changes a network's keys, and what is known of it beside.
    fn change(&mut self, vni: Vni, act: impl FnOnce(&mut BTreeSet<(M, K)>)) {
        let keys = self.networks.entry(vni).or_default();
        if let Some((mark, _)) = keys.first() {
            self.firsts.remove(&(*mark, vni));
            self.sizes.remove(&(keys.len(), Reverse(*mark), vni));
        }
        act(keys);
        if let Some((mark, _)) = keys.first() {
            self.firsts.insert((*mark, vni));
            self.sizes.insert((keys.len(), Reverse(*mark), vni));
        } else {
            self.networks.remove(&vni);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni(number: u32) -> Vni {
        Vni::try_from(number).unwrap()
    }

    #[test]
    fn networks_take_turns_however_much_one_of_them_has() {
        let mut queue = FairQueue::new(100);
        for number in 0..5 {
            assert!(queue.push(vni(1), number));
        }
        assert!(queue.push(vni(2), 20));
        assert!(queue.push(vni(3), 30));
        assert!(queue.push(vni(2), 21));
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(popped, [0, 20, 30, 1, 21, 2, 3, 4]);
        assert!(queue.is_empty() && queue.turns.is_empty() && queue.queues.is_empty());
    }

    #[test]
    fn who_floods_a_queue_leaves_room_for_others() {
        let mut queue = FairQueue::new(100);
        let fill = |queue: &mut FairQueue<()>, number| {
            (0..1000).filter(|_| queue.push(vni(number), ())).count()
        };
        assert_eq!(fill(&mut queue, 1), 50);
        assert_eq!(fill(&mut queue, 2), 25);
        assert_eq!(fill(&mut queue, 3), 13);
        assert!(queue.push(vni(4), ()), "room for one that comes late");
    }

    #[test]
    fn a_network_that_may_not_have_its_turn_keeps_it() {
        let mut queue = FairQueue::new(100);
        for number in [1, 2, 1] {
            assert!(queue.push(vni(number), number));
        }
        assert_eq!(queue.pop_of(|network| network != vni(1)), Some(2));
        assert_eq!(queue.pop_of(|network| network != vni(1)), None);
        assert_eq!((queue.len(), queue.pop()), (2, Some(1)));
    }

    #[test]
    fn what_goes_first_is_of_the_network_that_has_most() {
        let mut map = FairMap::default();
        for (key, network, mark) in [("a", 1, 1), ("b", 2, 2), ("c", 2, 3), ("d", 2, 4)] {
            map.insert(key, vni(network), mark);
        }
        assert_eq!(map.first(), Some((1, &"a")));
        assert_eq!(map.first_of_largest(), Some((2, &"b")));
        map.insert("b", vni(2), 5);
        assert_eq!(map.first_of_largest(), Some((3, &"c")));
        map.insert("b", vni(1), 1);
        map.remove(&"d");
        map.remove(&"a");
        assert_eq!(
            map.first_of_largest(),
            Some((1, &"b")),
            "as many, and older"
        );
        map.insert("b", vni(1), 0);
        assert_eq!(map.first(), Some((0, &"b")));
        for key in ["b", "c"] {
            assert!(map.remove(&key).is_some());
        }
        assert_eq!((map.first(), map.first_of_largest()), (None, None));
        assert!(map.networks.is_empty() && map.firsts.is_empty() && map.sizes.is_empty());
    }
}
