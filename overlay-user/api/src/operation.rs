//! Operations of the agent: how each is asked for and answered over HTTP, and the list of them all.

use serde::{Serialize, de::DeserializeOwned};

use crate::OperationError;

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Makes, or asks for something that is done.
    Post,
    /// Changes.
    Patch,
    /// Removes. Something that is gone already is no failure.
    Delete,
}

impl Method {
    /// The word in a request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether parameters are in the body, as JSON, instead of in the query.
    #[must_use]
    pub const fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Patch)
    }
}

/// An operation of the agent: a struct whose fields are its parameters.
///
/// A field that [`PATH`](Self::PATH) names in braces is a part of the URL's path. All others are in the query (GET,
/// DELETE) or in a JSON object in the body (POST, PATCH). Fields that the agent does not know are refused; fields of
/// an answer that a client does not know are ignored.
pub trait Operation: Listed + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The agent's answer. Of an operation that is answered in lines: one of them.
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// The HTTP method.
    const METHOD: Method;

    /// The URL's path, for example `/v1/networks/{name}`.
    const PATH: &'static str;

    /// The words of the command line that ask for it, without `overlay`.
    const VERB: &'static str;

    /// Whether the agent changes nothing. Such an operation ends when its client hangs up; any other is carried
    /// through.
    const READ_ONLY: bool = matches!(Self::METHOD, Method::Get);

    /// Refuses parameters that can't be right whatever the registry and the host hold.
    fn check(&self) -> Result<(), OperationError> {
        Ok(())
    }
}

/// An operation that [`for_each_operation!`](crate::for_each_operation) lists.
///
/// The list alone implements it, so an operation that is missing there does not compile.
pub trait Listed {
    /// How it is answered: [`Value`], [`Pages`] or [`Lines`].
    type Form;
}

/// Answered by one JSON value.
#[derive(Debug)]
pub enum Value {}

/// Answered by a JSON array with an element a line, which is read page by page.
#[derive(Debug)]
pub enum Pages {}

/// Answered by a JSON value a line for as long as the client listens.
#[derive(Debug)]
pub enum Lines {}

/// Calls a macro with every operation and the form of its answer.
///
/// The agent makes its routes from this list, and `docs/api.json` describes it.
#[macro_export]
macro_rules! for_each_operation {
    ($macro:ident) => {
        $macro! {
            CreateNetwork: Value,
            SetNetwork: Value,
            ListNetworks: Value,
            RemoveNetwork: Value,
            AddEndpoint: Value,
            ListEndpoints: Pages,
            ShowEndpoint: Value,
            SetEndpoint: Value,
            MoveEndpoint: Value,
            RemoveEndpoint: Value,
            CreateRouter: Value,
            ListRouters: Value,
            ShowRouter: Value,
            RemoveRouter: Value,
            SetRouter: Value,
            AttachRouter: Value,
            DetachRouter: Value,
            AddRoute: Value,
            RemoveRoute: Value,
            AddFloat: Value,
            MoveFloat: Value,
            ListFloats: Value,
            RemoveFloat: Value,
            CreatePool: Value,
            ListPools: Value,
            RemovePool: Value,
            ListNat: Value,
            CheckNat: Value,
            ListFlows: Value,
            RemoveFlows: Value,
            SetDhcp: Value,
            ListDhcp: Value,
            ShowDhcp: Value,
            RemoveDhcp: Value,
            CreateQos: Value,
            SetQos: Value,
            ListQos: Value,
            ShowQos: Value,
            RemoveQos: Value,
            ListVteps: Value,
            RemoveVtep: Value,
            ShowStatus: Value,
            CountDrops: Value,
            ShowDrops: Value,
            Monitor: Lines,
            Verify: Value,
            Examine: Value,
            ExamineCluster: Value,
            SendPing: Value,
            Explain: Value,
            AdoptRegistry: Value,
            ImportArpd: Value,
            Down: Value,
        }
    };
}

macro_rules! listed {
    ($($operation:ident: $form:ident,)+) => {
        $(
            impl Listed for $crate::$operation {
                type Form = $form;
            }
        )+
    };
}
crate::for_each_operation!(listed);
