//! The API's client, and what verbs do themselves where no agent answers.

pub use super::{
    doctor::without_agent as examine,
    offline::Left,
    offline_registry,
    teardown::{Doomed, down as take_down},
};
pub use crate::platform::Inventory;
pub use overlay_api::{Client, ClientError};
