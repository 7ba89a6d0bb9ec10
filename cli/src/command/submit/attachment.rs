//! Files that go with a prompt.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::exit::Usage;

/// No server can be set to take more; its own limit is smaller as a rule, and its answer says so.
const LARGEST_SUM: u64 = 1024 * 1024 * 1024;

/// Media types by the file names' last part; what a server takes of them is its own affair.
const MEDIA_TYPES: &[(&str, &str)] = &[
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("pdf", "application/pdf"),
    ("txt", "text/plain"),
    ("md", "text/plain"),
    ("log", "text/plain"),
    ("csv", "text/plain"),
];

/// The files as a request carries them.
///
/// # Errors
/// One can't be read, has a name that tells no media type, or all of them are too large.
pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut left = LARGEST_SUM;
    paths.iter().map(|path| read_one(path, &mut left)).collect()
}

fn read_one(path: &Path, left: &mut u64) -> anyhow::Result<Value> {
    let shown = path.display();
    let media_type = media_type(path)?;
    let size = std::fs::metadata(path).with_context(|| format!("{shown} can't be read"))?.len();
    match left.checked_sub(size) {
        Some(rest) => *left = rest,
        None => bail!("{shown} is too large: no server takes more than {LARGEST_SUM} bytes with one prompt"),
    }
    let content = std::fs::read(path).with_context(|| format!("{shown} can't be read"))?;
    if content.is_empty() {
        bail!("{shown} is empty");
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(json!({"base64Data": STANDARD.encode(content), "mediaType": media_type, "fileName": name}))
}

fn media_type(path: &Path) -> Result<&'static str, Usage> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let known = extension.and_then(|extension| MEDIA_TYPES.iter().find(|(name, _)| *name == extension));
    known.map(|(_, media_type)| *media_type).ok_or_else(|| {
        let known: Vec<_> = MEDIA_TYPES.iter().map(|(name, _)| *name).collect();
        Usage(format!(
            "{}: what it holds can't be told from its name; names end in .{}",
            path.display(),
            known.join(" .")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_with_its_name_and_the_type_that_its_name_tells() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("Plan.PNG");
        std::fs::write(&path, b"hello").expect("written");
        let files = read(std::slice::from_ref(&path)).expect("read");
        assert_eq!(files, [json!({"base64Data": "aGVsbG8=", "mediaType": "image/png", "fileName": "Plan.PNG"})]);
        std::fs::write(&path, b"").expect("written");
        assert!(read(&[path]).expect_err("empty").to_string().contains("is empty"));
        let error = read(&[directory.path().join("nothing.pdf")]).expect_err("not there");
        assert!(error.to_string().contains("can't be read"), "{error}");
    }

    #[test]
    fn a_name_that_tells_nothing_is_refused_with_those_that_do() {
        for name in ["plan", "plan.exe", ".png"] {
            let error = read(&[PathBuf::from(name)]).expect_err("no type");
            assert!(error.is::<Usage>() && error.to_string().contains(".pdf"), "{name}: {error}");
        }
    }
}
