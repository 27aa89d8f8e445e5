//! Describes the API as an `OpenAPI` 3.1 document: `docs/api.json`.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value as Json, json};

use crate::{ErrorView, NOTE, Operation, for_each_operation};

/// The document, from [`for_each_operation!`](crate::for_each_operation) and the types' own schemas.
#[must_use]
pub fn document() -> Json {
    let mut document = Document::new();
    macro_rules! describe {
        ($($operation:ident: $form:ident,)+) => {
            $(document.add::<crate::$operation>(Form::$form);)+
        };
    }
    for_each_operation!(describe);
    document.finish()
}

/// How an answer comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Value,
    Pages,
    Lines,
}

struct Document {
    /// What may be left out differs between what is read and what is written.
    requests: SchemaGenerator,
    answers: SchemaGenerator,
    paths: BTreeMap<&'static str, Map<String, Json>>,
}

impl Document {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            answers: settings().for_serialize().into_generator(),
            paths: BTreeMap::new(),
        }
    }

    fn add<Op: Operation<Answer: JsonSchema> + JsonSchema>(&mut self, form: Form) {
        let mut schema = Op::json_schema(&mut self.requests);
        let description = text(schema.remove("description"));
        let (summary, details) = description.split_once("\n\n").unwrap_or((&description, ""));
        let mut operation = Map::new();
        let mut add = |key: &str, value: Json| operation.insert(key.to_owned(), value);
        add("operationId", Op::schema_name().into());
        add("summary", summary.into());
        add("x-verb", format!("overlay {}", Op::VERB).into());
        let failed = self.answers.subschema_for::<ErrorView>();
        let responses = json!({
            "200": self.answer::<Op>(form),
            "default": {
                "description": "The operation failed.",
                "content": { "application/json": { "schema": failed } },
            },
        });
        add("responses", responses);
        if !details.is_empty() {
            add("description", details.into());
        }
        let parameters = parameters::<Op>(&mut schema);
        if !parameters.is_empty() {
            add("parameters", parameters.into());
        }
        let has_fields = |key| matches!(schema.get(key), Some(Json::Object(it)) if !it.is_empty());
        if has_fields("properties") {
            let body = json!({
                "required": schema.get("required").is_some(),
                "content": { "application/json": { "schema": schema } },
            });
            add("requestBody", body);
        }
        let method = Op::METHOD.as_str().to_lowercase();
        self.paths
            .entry(Op::PATH)
            .or_default()
            .insert(method, operation.into());
    }

    fn answer<Op: Operation<Answer: JsonSchema>>(&mut self, form: Form) -> Json {
        let schema = self.answers.subschema_for::<Op::Answer>();
        let (kind, description) = match form {
            Form::Value => ("application/json", "The answer."),
            Form::Pages => ("application/json", "A list with an element a line."),
            Form::Lines => (
                "application/x-ndjson",
                "One such object a line, until either side ends.",
            ),
        };
        let content = json!({ kind: { "schema": schema } });
        if form != Form::Pages {
            return json!({ "description": description, "content": content });
        }
        let note = json!({
            "description": "Why the list may lack something, in a line.",
            "schema": { "type": "string" },
        });
        json!({ "description": description, "content": content, "headers": { NOTE: note } })
    }

    fn finish(mut self) -> Json {
        let mut schemas = self.requests.take_definitions(true);
        for (name, schema) in self.answers.take_definitions(true) {
            let same = schemas.insert(name.clone(), schema.clone());
            assert!(
                same.is_none_or(|same| same == schema),
                "{name} is read otherwise than it is written: give each a type of its own"
            );
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "overlay agent",
                "version": "v1",
                "description": "The operations of the agent on one host. Requests with fields that the agent does \
                    not know are refused; clients ignore fields of answers that they do not know.",
            },
            "servers": [{
                "url": "http://overlay",
                "description": "HTTP/1.1 over the Unix socket /run/overlay/INSTANCE.sock, a request a connection",
            }],
            "paths": self.paths,
            "components": { "schemas": schemas },
        })
    }
}

/// Takes what is in the URL out of a request's schema.
fn parameters<Op: Operation>(schema: &mut Schema) -> Vec<Json> {
    let required: Vec<String> = schema
        .get("required")
        .and_then(|names| serde_json::from_value(names.clone()).ok())
        .unwrap_or_default();
    let mut left = Map::new();
    let mut parameters = Vec::new();
    if let Some(Json::Object(properties)) = schema.remove("properties") {
        for (name, mut property) in properties {
            let is_in_path = Op::PATH.contains(&format!("{{{name}}}"));
            if !is_in_path && Op::METHOD.has_body() {
                left.insert(name, property);
                continue;
            }
            let description = property
                .as_object_mut()
                .and_then(|property| property.remove("description"));
            parameters.push(json!({
                "name": name,
                "in": if is_in_path { "path" } else { "query" },
                "required": required.contains(&name),
                "description": text(description),
                "schema": property,
            }));
        }
    }
    let required: Vec<String> = required
        .into_iter()
        .filter(|name| left.contains_key(name))
        .collect();
    schema.remove("required");
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    schema.insert("properties".to_owned(), left.into());
    parameters
}

fn text(value: Option<Json>) -> String {
    match value {
        Some(Json::String(text)) => text,
        _ => String::new(),
    }
}
