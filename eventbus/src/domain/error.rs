//! The one boxed error type, and the report type for `main`.

use std::error::Error as StdError;

/// Any error that can cross threads; the type of the sources that backends give to the errors of this crate.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The result of a `main` or of glue code that only reports errors.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A report of any error, for `main` and glue code.
///
/// Every error converts into it with `?`; its `Debug` output is the message and its causes, so a `main` that returns
/// [`eventbus::Result`](Result) ends readably. Operations of this crate return their own error enums instead.
///
/// # Examples
/// ```
/// fn port(text: &str) -> eventbus::Result<u16> {
///     Ok(text.parse()?)
/// }
/// assert_eq!(format!("{:?}", port("x").unwrap_err()), "invalid digit found in string");
/// ```
///
/// A function that returns `Box<dyn std::error::Error>` takes it with `?` as well:
/// ```no_run
/// # use eventbus::App;
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     App::builder().discover().start().await?.run_until_signal().await?;
///     Ok(())
/// }
/// ```
/// Where errors have to cross threads, or a different crate defines the error type, [`into_inner`](Self::into_inner)
/// returns the error itself: `.map_err(eventbus::Error::into_inner)?`.
#[derive(derive_more::Display, derive_more::Debug)]
#[debug("{}", ErrorChain(&**_0))]
pub struct Error(BoxError);

impl Error {
    /// Returns the error that was converted into this report.
    ///
    /// # Examples
    /// ```
    /// async fn serve(app: eventbus::App) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     app.run_until_signal().await.map_err(eventbus::Error::into_inner)?;
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn into_inner(self) -> BoxError {
        self.0
    }

    /// The error that was converted into this report.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0
    }
}

impl<E: Into<BoxError>> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

// not for `BoxError`: every type that converts into it converts into `Error`, which would convert into itself twice
impl From<Error> for Box<dyn StdError> {
    fn from(Error(error): Error) -> Self {
        error
    }
}

/// Writes an error and its causes, one per line; a cause that its parent's message already ends with is left out.
#[derive(derive_more::Display)]
#[display("{}", join_causes(*_0, "\n  caused by: "))]
pub(crate) struct ErrorChain<'a>(pub(crate) &'a (dyn StdError + 'static));

/// Writes an error and its causes in one line, for fields of the log and of statuses.
#[derive(derive_more::Display)]
#[display("{}", join_causes(*_0, ": "))]
pub(crate) struct ErrorLine<'a>(pub(crate) &'a (dyn StdError + 'static));

fn join_causes(error: &(dyn StdError + 'static), separator: &str) -> String {
    let mut shown = error.to_string();
    let mut texts = vec![shown.clone()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !shown.ends_with(&text) {
            texts.push(text.clone());
        }
        shown = text;
        cause = error.source();
    }
    texts.join(separator)
}

/// The refusal of a decision that cannot refuse: `Ok::<_, Never>(event)`.
///
/// # Examples
/// ```
/// use eventbus::Never;
/// fn decide() -> Result<u8, Never> {
///     Ok(5)
/// }
/// assert_eq!(decide(), Ok(5));
/// ```
pub type Never = std::convert::Infallible;

/// Returns the message of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("(no message)")
}
