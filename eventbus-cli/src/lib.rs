//! The command line of [`eventbus`].

pub mod doctor;
