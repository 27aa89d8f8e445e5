//! Device features, as `ethtool -K` sets them: generic netlink, family "ethtool"
//! (`Documentation/networking/ethtool-netlink.rst`, `FEATURES_SET`).

use std::io;

use futures_util::TryStreamExt;
use genetlink::GenetlinkError;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use tokio::{runtime, time::timeout};

use super::{netlink_socket::ANSWER_TIMEOUT, netns::Netns};

/// Every feature that lets a device have TCP aggregates whole.
pub(super) const TCP_SEGMENTATION: [&str; 4] = [
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
];

/// Aggregation of what a device receives.
pub(super) const GRO: [&str; 1] = ["rx-gro"];

// `linux/ethtool_netlink.h` and `linux/ethtool_netlink_generated.h`.
const VERSION: u8 = 1;
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const HEADER_DEV_INDEX: u16 = 1;
const HEADER_FLAGS: u16 = 3;
const FLAG_OMIT_REPLY: u32 = 1 << 1;
const BITSET_BITS: u16 = 3;
const BITSET_BITS_BIT: u16 = 1;
const BITSET_BIT_NAME: u16 = 2;
const BITSET_BIT_VALUE: u16 = 3;

/// Wishes for `features` of the device with index `ifindex` in `netns`. The kernel grants what the
/// device can do; an error is that of the request itself.
pub(super) async fn set(
    netns: &Netns,
    ifindex: u32,
    features: &[&str],
    on: bool,
) -> io::Result<()> {
    let runtime = runtime::Handle::current();
    let (connection, mut handle, _) = netns
        .run(move || {
            let _registers_the_socket = runtime.enter();
            genetlink::new_connection()
        })
        .await?;
    let connection = tokio::spawn(connection);
    let wish = FeaturesSet::new(ifindex, features, on);
    let result = timeout(ANSWER_TIMEOUT, request(&mut handle, wish)).await;
    connection.abort();
    result?.map_err(|error| match error {
        GenetlinkError::NetlinkError(error) => error,
        other => io::Error::other(other),
    })
}

async fn request(
    handle: &mut genetlink::GenetlinkHandle,
    wish: FeaturesSet,
) -> Result<(), GenetlinkError> {
    let mut message = NetlinkMessage::from(GenlMessage::from_payload(wish));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.request(message).await?;
    while let Some(answer) = answers.try_next().await? {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.into());
        }
    }
    Ok(())
}

/// The request's attributes, in the form of the wire.
#[derive(Debug)]
struct FeaturesSet(Vec<DefaultNla>);

impl FeaturesSet {
    fn new(ifindex: u32, features: &[&str], on: bool) -> Self {
        let bits = features.iter().map(|feature| {
            let name = [feature.as_bytes(), &[0]].concat();
            let name = DefaultNla::new(BITSET_BIT_NAME, name);
            let value = on.then(|| DefaultNla::new(BITSET_BIT_VALUE, Vec::new()));
            nested(BITSET_BITS_BIT, [name].into_iter().chain(value))
        });
        Self(vec![
            nested(
                FEATURES_HEADER,
                [
                    DefaultNla::new(HEADER_DEV_INDEX, ifindex.to_ne_bytes().to_vec()),
                    DefaultNla::new(HEADER_FLAGS, FLAG_OMIT_REPLY.to_ne_bytes().to_vec()),
                ],
            ),
            nested(FEATURES_WANTED, [nested(BITSET_BITS, bits)]),
        ])
    }
}

fn nested(kind: u16, inner: impl IntoIterator<Item = DefaultNla>) -> DefaultNla {
    let inner: Vec<_> = inner.into_iter().collect();
    let mut value = vec![0; inner.as_slice().buffer_len()];
    inner.as_slice().emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

impl Emitable for FeaturesSet {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl GenlFamily for FeaturesSet {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        FEATURES_SET
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl ParseableParametrized<[u8], GenlHeader> for FeaturesSet {
    /// The kernel was asked for no answer of this kind.
    fn parse_with_param(_: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self(Vec::new()))
    }
}
