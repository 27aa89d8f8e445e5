//! VNIs for networks that ask for none.

use std::collections::BTreeSet;

use super::Vni;

/// The lowest VNI that a network gets which asks for none: as with Docker's overlay networks, those below
/// are left to people, who often number networks as they number VLANs.
pub const AUTO_VNI: u32 = 4096;

/// The lowest of those that is none of `taken`. `None`: there is none.
#[must_use]
pub fn free_vni(taken: &BTreeSet<Vni>) -> Option<Vni> {
    let mut all = (AUTO_VNI..=Vni::MAX).filter_map(|number| Vni::try_from(number).ok());
    all.find(|vni| !taken.contains(vni))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_vni_of_the_range_is_found() {
        let vnis = |numbers: &[u32]| -> BTreeSet<Vni> {
            numbers
                .iter()
                .map(|number| Vni::try_from(*number).unwrap())
                .collect()
        };
        let free = |taken| free_vni(&vnis(taken)).map(Vni::get);
        assert_eq!(free(&[1, 42]), Some(4096));
        assert_eq!(free(&[4096, 4097, 4099]), Some(4098));
    }
}
