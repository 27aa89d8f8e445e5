//! Counts a frame's packets and bytes on the wire: an aggregate counts as its segments.

/// Frames and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Frames.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
}

impl Volume {
    /// Of a frame that is none but itself, with so many bytes.
    #[must_use]
    #[inline(always)]
    pub const fn of_frame(len: u32) -> Self {
        Self {
            packets: 1,
            bytes: len as u64,
        }
    }

    /// Of an aggregate with so many bytes: `headers` of them are repeated in each segment, the
    /// others are dealt out, `segment` at a time.
    #[must_use]
    #[inline(always)]
    pub const fn of_aggregate(len: u32, headers: u32, segment: u32) -> Self {
        if len <= headers || segment == 0 {
            return Self::of_frame(len);
        }
        let segments = (len - headers).div_ceil(segment) as u64;
        Self {
            packets: segments,
            bytes: len as u64 + (segments - 1) * headers as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_counts_as_its_segments() {
        let volume = |packets, bytes| Volume { packets, bytes };
        assert_eq!(Volume::of_frame(60), volume(1, 60));
        // Two full segments of 1398 bytes and one of a single byte, each behind 66 of headers.
        assert_eq!(
            Volume::of_aggregate(66 + 2 * 1398 + 1, 66, 1398),
            volume(3, 3 * 66 + 2 * 1398 + 1)
        );
        assert_eq!(Volume::of_aggregate(66 + 1398, 66, 1398), volume(1, 1464));
    }

    #[test]
    fn an_aggregate_that_makes_no_sense_counts_as_a_frame() {
        assert_eq!(Volume::of_aggregate(60, 66, 1398), Volume::of_frame(60));
        assert_eq!(Volume::of_aggregate(60, 54, 0), Volume::of_frame(60));
    }
}
