//! Metrics: their values, labels, page, export, dashboard and alerts.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod counts;
mod export;
mod files;
mod lag;
mod outages;
mod page;
mod route;
mod series;
mod shared_bus;
mod shop;
