//! Templates: they can read nothing but what they are given, their work and their length are bounded, and a name that is not
//! known is an error.

use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior};
use serde::Serialize;

/// Instructions that one rendering may take.
const FUEL: u64 = 50_000;
/// Longest text, in bytes.
const LONGEST: usize = 256 * 1024;

/// Why a template makes no text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateFault {
    /// It can't be read, speaks of what is not there, or takes too much work.
    #[error("{0}")]
    Unrenderable(#[from] Error),
    /// The text is too long.
    #[error("makes a text of {0} bytes; allowed: {LONGEST}")]
    TooLong(usize),
}

/// The text that `source` makes of `scene`. What the scene holds is text, never a template. `name` is how errors call it.
///
/// # Errors
/// Why there is none.
pub fn render(name: &str, source: &str, scene: impl Serialize) -> Result<String, TemplateFault> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    // Read by models, not by browsers.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let text = environment.render_named_str(name, source, scene)?;
    if text.len() > LONGEST {
        return Err(TemplateFault::TooLong(text.len()));
    }
    Ok(text)
}
