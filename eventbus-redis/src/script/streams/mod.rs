//! Scripts of plain streams.

use std::sync::LazyLock;

use redis::Script;

use super::{ENTRY_BYTES, ENTRY_IDS, GONE, PAGES, script};

pub(crate) static NEXT_PROJECTION_BATCH: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("next_projection_batch.lua")]));
pub(crate) static CLAIM_PAGE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_BYTES, GONE, include_str!("claim_page.lua")]));
