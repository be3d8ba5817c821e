//! Programs that must not compile, with the messages their authors see, and programs that must: see `tests/`.
