//! The form that the transcription server gets: written as it is sent, since the language may be known only after the audio.

use bytes::Bytes;

/// Extensions that the servers tell the coding of an audio by.
const EXTENSIONS: &[&str] = &["flac", "mp3", "mp4", "mpeg", "mpga", "m4a", "oga", "ogg", "wav", "webm"];
/// For an audio whose coding nobody says: what telephones record.
const PROBABLE: &str = "m4a";

/// A form under way.
#[derive(Debug)]
pub(super) struct Form {
    boundary: String,
}

impl Form {
    pub(super) fn new() -> Self {
        // No audio holds 128 random bits by chance.
        Self { boundary: format!("errand-{:032x}", rand::random::<u128>()) }
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// All before the audio.
    pub(super) fn head(&self, model: &str, extension: &str, media_type: Option<&str>) -> Bytes {
        let boundary = &self.boundary;
        let media_type = media_type.unwrap_or("application/octet-stream");
        let fields = [self.field("model", model), self.field("response_format", "json")].concat();
        format!(
            "{fields}--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"audio.{extension}\"\r\n\
             Content-Type: {media_type}\r\n\r\n"
        )
        .into()
    }

    /// All after the audio.
    pub(super) fn tail(&self, language: Option<&str>) -> Bytes {
        let language = language.map(|language| self.field("language", language)).unwrap_or_default();
        format!("\r\n{language}--{}--\r\n", self.boundary).into()
    }

    fn field(&self, name: &str, value: &str) -> String {
        format!("--{}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n", self.boundary)
    }
}

/// The extension by which the server tells the coding: that of the client's file, or the one of its media type.
pub(super) fn extension(file_name: Option<&str>, media_type: Option<&str>) -> &'static str {
    let known = |wanted: &str| EXTENSIONS.iter().copied().find(|known| wanted.eq_ignore_ascii_case(known));
    let named = file_name.and_then(|name| known(name.rsplit_once('.')?.1));
    let typed = || match media_type?.split(';').next()?.trim().split_once('/')?.1 {
        "x-wav" | "wave" | "vnd.wave" => Some("wav"),
        "opus" => Some("ogg"),
        "mpeg" => Some("mp3"),
        "x-m4a" | "aac" | "m4a" => Some("m4a"),
        "x-flac" => Some("flac"),
        other => known(other),
    };
    named.or_else(typed).unwrap_or(PROBABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coding_of_an_audio_is_told_by_its_name_and_else_by_its_type() {
        assert_eq!(extension(Some("Memo.WAV"), Some("audio/mp4")), "wav");
        assert_eq!(extension(Some("blob"), Some("audio/webm; codecs=opus")), "webm");
        assert_eq!(extension(Some("a.exe"), Some("audio/mpeg")), "mp3");
        assert_eq!(extension(None, Some("application/octet-stream")), "m4a");
        assert_eq!(extension(None, None), "m4a");
    }
}
