#![doc = include_str!("../README.md")]
#![allow(missing_docs, reason = "no API: users see only what the drivers export")]

#[doc(hidden)]
pub mod connection;
#[doc(hidden)]
pub mod entry_id;
#[doc(hidden)]
pub mod env_vars;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod format;
#[doc(hidden)]
pub mod hash_tag;
#[doc(hidden)]
pub mod program;
#[doc(hidden)]
pub mod reply;
#[doc(hidden)]
pub mod script;
#[doc(hidden)]
pub mod server;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
#[doc(hidden)]
pub mod url;
#[doc(hidden)]
pub mod validate;
