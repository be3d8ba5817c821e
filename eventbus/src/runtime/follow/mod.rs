//! Followers of a store's feed: stored events, then new ones, in one stream without a gap.

mod control;
mod feed_reader;
mod follower;

pub use self::{
    control::{FollowControl, FollowStatus},
    follower::{Follow, Following},
};
