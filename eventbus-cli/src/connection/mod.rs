//! Opens existing stores and buses by URL: connecting creates no table, key or group.

mod open_bus;
mod open_store;
mod settings;

pub use self::{
    open_bus::OpenBus,
    open_store::OpenStore,
    settings::{ConnectionSettings, StoreUrl},
};
