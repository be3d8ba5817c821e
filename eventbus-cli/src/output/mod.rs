//! Output: one JSON object or a table of text, on standard output.

mod document;
mod printer;
mod progress;
mod table;

pub(crate) use self::{
    document::{age, optional, time_text},
    printer::Printer,
    progress::Progress,
    table::{Table, columns, printable},
};
pub(crate) use document::{serialize_option_time, serialize_position, serialize_time};
