//! Answers that begin before their end is known.

use std::io;

use axum::{
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::agent::api::{ErrorView, OperationError};

/// Some elements of a list, or why there are no more.
pub type Page<T> = Result<Vec<T>, OperationError>;

/// A JSON array with an element a line, each sent as soon as it is there. An error before the first
/// page is the whole answer; a later one takes an element's place, and the connection breaks off.
pub(super) async fn array<T: Serialize + Send + 'static>(
    mut pages: mpsc::Receiver<Page<T>>,
) -> Result<Response, OperationError> {
    let first = pages.recv().await.transpose()?;
    let array = Array {
        first,
        pages,
        is_empty: true,
        stage: Stage::Open,
    };
    let body = unfold(array, |mut array| async {
        let text = array.next().await?;
        Some((text, array))
    });
    Ok(answer("application/json", Body::from_stream(body)))
}

/// A JSON value a line, each sent as soon as it is there; ends when the sender does.
pub(super) fn lines<T: Serialize + Send + 'static>(values: mpsc::Receiver<T>) -> Response {
    let body = unfold(values, |mut values| async {
        let value = values.recv().await?;
        let mut line = Vec::new();
        let line = write(&mut line, &value).map(|()| {
            line.push(b'\n');
            Bytes::from(line)
        });
        Some((line, values))
    });
    answer("application/x-ndjson", Body::from_stream(body))
}

fn answer(kind: &'static str, body: Body) -> Response {
    ([(CONTENT_TYPE, kind)], body).into_response()
}

fn write(text: &mut Vec<u8>, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(text, value).map_err(io::Error::from)
}

struct Array<T> {
    first: Option<Vec<T>>,
    pages: mpsc::Receiver<Page<T>>,
    is_empty: bool,
    stage: Stage,
}

enum Stage {
    /// More may come.
    Open,
    /// The error has been told: the array must not look whole.
    Failed,
    /// All has been said.
    Ended,
}

impl<T: Serialize> Array<T> {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self.stage {
            Stage::Ended => None,
            Stage::Failed => {
                self.stage = Stage::Ended;
                Some(Err(io::Error::other("the listing broke off")))
            }
            Stage::Open => Some(self.open().await.map(Bytes::from)),
        }
    }

    async fn open(&mut self) -> io::Result<Vec<u8>> {
        let page = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.pages.recv().await,
        };
        let mut text = Vec::new();
        match page {
            Some(Ok(elements)) => {
                for element in &elements {
                    self.add(&mut text, element)?;
                }
            }
            Some(Err(error)) => {
                self.stage = Stage::Failed;
                self.add(&mut text, &ErrorView { error })?;
            }
            None => {
                self.stage = Stage::Ended;
                text.extend_from_slice(if self.is_empty { b"[]\n" } else { b"\n]\n" });
            }
        }
        Ok(text)
    }

    fn add(&mut self, text: &mut Vec<u8>, element: &impl Serialize) -> io::Result<()> {
        let is_first = std::mem::replace(&mut self.is_empty, false);
        text.extend_from_slice(if is_first { b"[\n" } else { b",\n" });
        write(text, element)
    }
}
