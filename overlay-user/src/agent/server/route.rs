//! The route of an operation: its parameters in, the operation carried out, its answer out.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts as _, Path, Query, Request, State},
    http::{HeaderValue, StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use serde::{
    Serialize,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value as Any};
use tokio::sync::mpsc;

use super::stream::{self, Page};
use crate::agent::api::{
    ErrorKind, ErrorView, Lines, Listed, Method, NOTE, Operation, OperationError, Pages, Value,
};

/// Carries out an operation.
pub trait Handle<Op: Operation<Form: Respond<Op>>>: Send + Sync + 'static {
    /// Carries it out. Its parameters have passed [`Operation::check`].
    fn handle(&self, operation: Op) -> impl Future<Output = Outcome<Op>> + Send;
}

/// The result of an operation, as its handler gives it.
pub type Outcome<Op> = Result<<<Op as Listed>::Form as Respond<Op>>::Output, OperationError>;

/// Makes a response of a handler's result, in one of the forms of answers.
pub trait Respond<Op: Operation> {
    /// The handler's result.
    type Output: Send + 'static;

    /// The response.
    fn respond(
        output: Self::Output,
    ) -> impl Future<Output = Result<Response, OperationError>> + Send;
}

impl<Op: Operation> Respond<Op> for Value {
    type Output = Op::Answer;

    async fn respond(answer: Op::Answer) -> Result<Response, OperationError> {
        Ok(Json(answer).into_response())
    }
}

/// A list in pages, so that neither side holds a million elements. After an error nothing follows.
#[derive(Debug)]
pub struct Paged<T> {
    /// The elements.
    pub pages: mpsc::Receiver<Page<T>>,
    /// Why some may be missing, in a line.
    pub note: Option<String>,
}

impl<Op, T> Respond<Op> for Pages
where
    Op: Operation<Answer = Vec<T>>,
    T: Serialize + Send + 'static,
{
    type Output = Paged<T>;

    async fn respond(Paged { pages, note }: Paged<T>) -> Result<Response, OperationError> {
        let mut answer = stream::array(pages).await?;
        // A header is one line of bytes.
        let note = note.map(|note| note.replace(|c: char| c.is_control(), " "));
        if let Some(note) = note.and_then(|note| HeaderValue::from_bytes(note.as_bytes()).ok()) {
            answer.headers_mut().insert(NOTE, note);
        }
        Ok(answer)
    }
}

impl<Op: Operation> Respond<Op> for Lines {
    type Output = mpsc::Receiver<Op::Answer>;

    async fn respond(events: Self::Output) -> Result<Response, OperationError> {
        Ok(stream::lines(events))
    }
}

/// The route of an operation, which its handler carries out.
pub(in crate::agent) fn route<A, Op>() -> MethodRouter<Arc<A>>
where
    A: Handle<Op>,
    Op: Operation<Form: Respond<Op>>,
{
    let method = match Op::METHOD {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    };
    on(
        method,
        async |State(handler): State<Arc<A>>, Parameters(operation): Parameters<Op>| {
            serve(handler, operation).await.map_err(ErrorResponse)
        },
    )
}

async fn serve<A, Op>(handler: Arc<A>, operation: Op) -> Result<Response, OperationError>
where
    A: Handle<Op>,
    Op: Operation<Form: Respond<Op>>,
{
    operation.check()?;
    let output = if Op::READ_ONLY {
        handler.handle(operation).await
    } else {
        // Of its own, so that it is carried through even if the client hangs up, which drops this future.
        let working = tokio::spawn(async move { handler.handle(operation).await });
        working.await.unwrap_or_else(|error| {
            Err(OperationError::new(
                ErrorKind::Internal,
                format_args!("the agent failed: {error}; see its log"),
            ))
        })
    };
    Op::Form::respond(output?).await
}

/// An operation with its parameters, from the path, the query and the body of a request.
struct Parameters<Op>(Op);

impl<Op: Operation, S: Send + Sync> FromRequest<S> for Parameters<Op> {
    type Rejection = ErrorResponse;

    async fn from_request(request: Request, state: &S) -> Result<Self, ErrorResponse> {
        let (mut parts, body) = request.into_parts();
        if !Op::PATH.contains('{') {
            return if Op::METHOD.has_body() {
                body_of(Request::from_parts(parts, body), state)
                    .await
                    .map(Self)
            } else {
                query_of(&mut parts, state).await.map(Self)
            };
        }
        let path = Path::from_request_parts(&mut parts, state).await;
        let Path(in_path) = path.map_err(|refusal| usage(refusal.body_text()))?;
        let (refusal, others) = if Op::METHOD.has_body() {
            let body = body_of(Request::from_parts(parts, body), state).await?;
            (
                "Failed to deserialize the JSON body into the target type",
                body,
            )
        } else {
            ("Invalid URL", query_of(&mut parts, state).await?)
        };
        merged(in_path, others)
            .map(Self)
            .map_err(|error| usage(format_args!("{refusal}: {error}")))
    }
}

/// The query of a request.
async fn query_of<T: DeserializeOwned>(
    parts: &mut Parts,
    state: &(impl Send + Sync),
) -> Result<T, ErrorResponse> {
    let query = Query::from_request_parts(parts, state).await;
    let Query(query) = query.map_err(|refusal| usage(refusal.body_text()))?;
    Ok(query)
}

/// The JSON body of a request. One that is empty or null has no fields.
async fn body_of<T: DeserializeOwned>(
    request: Request,
    state: &(impl Send + Sync),
) -> Result<T, ErrorResponse> {
    let (parts, body) = request.into_parts();
    // With the parts, in which the limit of a body's length is.
    let request = Request::from_parts(parts.clone(), body);
    let bytes = Bytes::from_request(request, state).await;
    let bytes = bytes.map_err(|refusal| usage(refusal.body_text()))?;
    if matches!(&*bytes, b"" | b"null")
        && let Ok(value) = serde_json::from_value(Any::Object(Map::new()))
    {
        return Ok(value);
    }
    let request = Request::from_parts(parts, Body::from(bytes));
    let Json(value) = Json::from_request(request, state)
        .await
        .map_err(|refusal| usage(refusal.body_text()))?;
    Ok(value)
}

/// An operation whose parameters are in two places.
fn merged<Op: Operation>(
    in_path: BTreeMap<String, String>,
    mut parameters: Map<String, Any>,
) -> Result<Op, serde_json::Error> {
    for (key, value) in in_path {
        if parameters.insert(key.clone(), value.into()).is_some() {
            let error = format_args!("unknown field `{key}`: it is in the path");
            return Err(serde_json::Error::custom(error));
        }
    }
    serde_json::from_value(Any::Object(parameters))
}

fn usage(message: impl std::fmt::Display) -> ErrorResponse {
    ErrorResponse(OperationError::new(ErrorKind::Usage, message))
}

/// A failed operation as a response.
#[derive(Debug)]
pub(in crate::agent) struct ErrorResponse(pub OperationError);

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = match error.kind {
            ErrorKind::Usage => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Finding | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorView { error })).into_response()
    }
}
