//! The client's form: its audio is passed on while it comes, its other parts are few and short.

use std::time::Duration;

use axum::{
    extract::{
        FromRequest, Multipart, Request,
        multipart::{Field, MultipartError},
    },
    http::StatusCode,
};
use sha2::{Digest, Sha256};

use super::{
    BESIDE, Call, Transcriber,
    form::{Form, extension},
};
use crate::{limit, problem::Problem};

/// Longest `language`, in bytes.
const LANGUAGE: usize = 35;
/// A language that the server is to find out itself.
const AUTO: &str = "auto";

/// The body of a request that brings speech, for the OpenAPI document.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "described for clients; the form is read as it comes")]
pub(crate) struct AudioForm {
    /// The audio: flac, mp3, mp4, mpeg, mpga, m4a, ogg, wav or webm, told by its file name or media type; at most
    /// `transcription.limit_mib`.
    #[schema(value_type = String, format = Binary)]
    audio: Vec<u8>,
    /// What is spoken, as ISO 639-1 (`en`); `auto`: the server finds out; `transcription.language` if absent.
    language: Option<String>,
}

/// A form about to be read.
#[derive(Debug)]
pub(crate) struct Upload(Multipart);

impl<S: Send + Sync> FromRequest<S> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Multipart::from_request(request, state).await.map(Self).map_err(|_| {
            let detail = "Content-Type must be multipart/form-data with a boundary";
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
                .with("header:Content-Type", "must be multipart/form-data with a boundary")
        })
    }
}

/// What a form said.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Of its parts, for `Idempotency-Key`.
    pub(crate) digest: [u8; 32],
    /// The text, without white space around it; `None` if it was not asked for.
    pub(crate) text: Option<String>,
}

impl Upload {
    /// Reads the form, and has its audio transcribed.
    pub(crate) async fn hear(self, transcriber: &Transcriber) -> Result<Heard, Problem> {
        self.read(Some(transcriber), transcriber).await
    }

    /// Reads the form only: the answer to it is known.
    pub(crate) async fn digest(self, transcriber: &Transcriber) -> Result<Heard, Problem> {
        self.read(None, transcriber).await
    }

    async fn read(self, ask: Option<&Transcriber>, limits: &Transcriber) -> Result<Heard, Problem> {
        let config = &limits.config;
        let place = ask.map(Transcriber::admit).transpose()?;
        let most = config.limit_mib as usize * 1024 * 1024;
        let mut reading = Reading {
            ask: ask.zip(place),
            form: Form::new(),
            call: None,
            hash: Sha256::new(),
            audio: 0,
            beside: 0,
            most,
            language: None,
        };
        let within = Duration::from_secs(config.upload_timeout_seconds.into());
        let read = tokio::time::timeout(within, reading.parts(self.0)).await.unwrap_or_else(|_| {
            let detail = format!("The upload did not arrive within {} s", within.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail))
        });
        read.and_then(|()| reading.judge())?;
        let language = reading.language.clone().unwrap_or_else(|| config.language.clone());
        let digest = reading.hash.finalize().into();
        let Some(call) = reading.call else { return Ok(Heard { digest, text: None }) };
        let spoken = (language != AUTO).then_some(language.as_str());
        call.pass(reading.form.tail(spoken)).await;
        let text = call.answer(Duration::from_secs(config.answer_timeout_seconds.into())).await?;
        Ok(Heard { digest, text: Some(text) })
    }
}

/// A form being read.
struct Reading<'a> {
    /// Who is asked, and the place there, until the audio begins.
    ask: Option<(&'a Transcriber, tokio::sync::OwnedSemaphorePermit)>,
    form: Form,
    call: Option<Call>,
    hash: Sha256,
    /// Bytes of audio so far.
    audio: usize,
    /// Bytes of everything else.
    beside: usize,
    most: usize,
    language: Option<String>,
}

impl Reading<'_> {
    async fn parts(&mut self, mut form: Multipart) -> Result<(), Problem> {
        let mut heard = false;
        while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
            let name = field.name().unwrap_or_default().to_owned();
            self.note(name.as_bytes());
            self.note(field.file_name().unwrap_or_default().as_bytes());
            self.note(field.content_type().unwrap_or_default().as_bytes());
            match name.as_str() {
                "audio" if heard => return Err(Problem::field("form:audio", "must be given once")),
                "audio" => {
                    heard = true;
                    self.audio(field).await?;
                }
                "language" => {
                    let text = self.short(field).await?;
                    self.language = language(&text)?;
                }
                // A field that is not known is ignored.
                _ => drop(self.short(field).await?),
            }
        }
        Ok(())
    }

    /// Once all is read: whether it can be answered.
    fn judge(&self) -> Result<(), Problem> {
        if self.audio == 0 {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_request", "audio file is required")
                .with("form:audio", "must be a file that is not empty"));
        }
        if self.audio > self.most {
            let detail = format!("The audio is larger than {} bytes", self.most);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "audio_too_large", detail)
                .with("form:audio", format!("may take {} bytes at most", self.most)));
        }
        Ok(())
    }

    async fn audio(&mut self, mut field: Field<'_>) -> Result<(), Problem> {
        let media_type = field.content_type().filter(|text| is_plain(text)).map(str::to_owned);
        let extension = extension(field.file_name(), media_type.as_deref());
        while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
            self.audio += piece.len();
            if self.audio > self.most {
                // The rest is thrown away, up to a multiple, so that the client reads the answer.
                self.call = None;
                self.ask = None;
                if self.audio > self.most.saturating_mul(limit::BODY_DRAIN_FACTOR) {
                    return self.judge();
                }
                continue;
            }
            self.hash.update(&piece);
            if let Some((transcriber, place)) = self.ask.take_if(|_| !piece.is_empty()) {
                let call = transcriber.begin(place, &self.form)?;
                let head = self.form.head(&transcriber.config.model, extension, media_type.as_deref());
                call.pass(head).await;
                self.call = Some(call);
            }
            if let Some(call) = &self.call {
                call.pass(piece).await;
            }
        }
        self.hash.update(self.audio.to_be_bytes());
        Ok(())
    }

    async fn short(&mut self, mut field: Field<'_>) -> Result<Vec<u8>, Problem> {
        let mut text = Vec::new();
        while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
            self.beside += piece.len();
            if self.beside > BESIDE {
                let detail = format!("What comes beside the audio is larger than {BESIDE} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
            }
            text.extend_from_slice(&piece);
        }
        self.note(&text);
        Ok(text)
    }

    /// Into the fingerprint, so that no two forms look alike that are not.
    fn note(&mut self, part: &[u8]) {
        self.hash.update(part.len().to_be_bytes());
        self.hash.update(part);
    }
}

/// The language as the servers want it: `zh-CN` is `zh`. `None`: the client leaves it to the setting.
fn language(text: &[u8]) -> Result<Option<String>, Problem> {
    let wanted = || Problem::field("form:language", "must be a language as ISO 639-1, such as en, or auto");
    let text = std::str::from_utf8(text).map_err(|_| wanted())?.trim().to_ascii_lowercase();
    if text.is_empty() {
        return Ok(None);
    }
    let first = text.split(['-', '_']).next().unwrap_or_default();
    let fits = (2..=3).contains(&first.len()) && first.bytes().all(|b| b.is_ascii_lowercase());
    if text == AUTO || (fits && text.len() <= LANGUAGE) {
        let language = if text == AUTO { AUTO } else { first };
        return Ok(Some(language.to_owned()));
    }
    Err(wanted())
}

/// Whether it may stand in a header of the form that is sent on.
fn is_plain(media_type: &str) -> bool {
    media_type.len() <= 128 && media_type.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

fn broken(error: &MultipartError) -> Problem {
    let detail = format!("The form can't be read: {}", error.body_text());
    Problem::new(StatusCode::BAD_REQUEST, "unreadable_body", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_told_as_the_servers_want_it() {
        let told = |text: &str| language(text.as_bytes()).expect(text);
        assert_eq!(told("zh-CN").as_deref(), Some("zh"));
        assert_eq!(told(" EN ").as_deref(), Some("en"));
        assert_eq!(told("auto").as_deref(), Some("auto"));
        assert_eq!(told(""), None);
        for text in ["english!", "e", "en\r\nx", "12"] {
            assert!(language(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
