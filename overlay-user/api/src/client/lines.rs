//! Answers that are read while they still come.

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};

/// The body of an answer, line by line.
#[derive(Debug)]
pub(super) struct BodyLines {
    body: Incoming,
    /// What has come and was not handed out.
    chunk: Bytes,
    /// The beginning of a line whose end was not in its chunk.
    begun: Vec<u8>,
}

impl BodyLines {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
            begun: Vec::new(),
        }
    }

    /// The next line without its end. `None`: the answer is complete. An error: it broke off.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, hyper::Error> {
        loop {
            if let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') {
                self.begun.extend_from_slice(&self.chunk.split_to(end));
                let _line_break = self.chunk.split_to(1);
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
            // Emptied before the wait, which the caller may give up and begin again.
            self.begun
                .extend_from_slice(&std::mem::take(&mut self.chunk));
            self.chunk = match self.body.frame().await.transpose()? {
                Some(frame) => frame.into_data().unwrap_or_default(),
                None => return Ok(None),
            };
        }
    }
}
