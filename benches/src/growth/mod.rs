//! How the cost of an operation grows with streams, events, handlers and so on: the command `growth`.

mod axis;
mod curve;
mod filled_store;
mod measuring;
mod processes;

use std::fs;

use eventbus::Result;

use self::measuring::Measuring;
pub use self::{
    axis::{AXES, Axis},
    curve::{AxisCurves, Point},
};
use crate::{GrowthArgs, driver::target_folder, plot};

const ROUNDS: usize = 7;
const QUICK_ROUNDS: usize = 3;

pub fn run(args: &GrowthArgs) -> Result<()> {
    let axes = axis::find(&args.only)?;
    let rounds = args.rounds.unwrap_or(if args.quick { QUICK_ROUNDS } else { ROUNDS });
    fs::create_dir_all(target_folder())?;
    let json = args.json.clone().unwrap_or_else(|| target_folder().join("growth.json"));
    let mut measuring = Measuring::start(args.quick, rounds)?;
    println!("{rounds} rounds{}", if args.quick { ", quick" } else { "" });
    let mut measured = Vec::new();
    for axis in axes {
        let curves = measuring.measure(axis)?;
        println!("\n{}:\n\n{curves}", axis.name);
        measured.push(curves);
        // after each axis: a long run that ends early keeps what it has measured
        fs::write(&json, serde_json::to_vec_pretty(&measured)?)?;
    }
    if let Some(folder) = &args.plots {
        plot::write_growth(&measured, folder)?;
    }
    println!("all rounds: {}", json.display());
    Ok(())
}
