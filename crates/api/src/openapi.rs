use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use crate::routes::{Answer, ROUTES, Route};
use crate::types::ErrorBody;

const SECURITY: &str = "token";

/// The description of the API. It is kept at `docs/openapi.json`, and a test compares the two.
pub fn openapi() -> OpenApi {
    let mut components = ComponentsBuilder::new()
        .security_scheme(SECURITY, SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()));
    let mut schemas = vec![(ErrorBody::name().to_string(), ErrorBody::schema())];
    ErrorBody::schemas(&mut schemas);
    let mut paths = PathsBuilder::new();
    for route in ROUTES {
        let item = PathItem::new(route.method.clone(), operation(route, &mut schemas));
        paths = paths.path(route.path, item);
    }
    for (name, schema) in schemas {
        components = components.schema(name, schema);
    }
    let info = InfoBuilder::new()
        .title("Levee")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The control plane of Levee. Every call needs a bearer token; errors have the form of ErrorBody.",
        ))
        .build();
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build()
}

type Schemas = Vec<(String, RefOr<utoipa::openapi::Schema>)>;

fn operation(route: &Route, schemas: &mut Schemas) -> OperationBuilder {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(route.operation))
        .summary(Some(route.summary))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(SECURITY, []));
    for name in route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        operation = operation.parameter(text_parameter(name, ParameterIn::Path, None));
    }
    for (name, description) in route.query {
        operation = operation.parameter(text_parameter(name, ParameterIn::Query, Some(description)));
    }
    if let Some(body) = route.body {
        let body = body();
        schemas.extend(body.components);
        let content = ContentBuilder::new().schema(Some(body.schema)).build();
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
        operation = operation.request_body(Some(body.build()));
    }
    let (code, media_type) = match route.answer {
        Answer::Nothing => ("204", ""),
        Answer::Bytes => ("200", "application/octet-stream"),
        Answer::One(_) | Answer::Many(_) => ("200", "application/json"),
    };
    let mut good = ResponseBuilder::new().description("Done");
    if let Some(answer) = route.answer.schema() {
        schemas.extend(answer.components);
        good = good.content(media_type, ContentBuilder::new().schema(Some(answer.schema)).build());
    }
    let error_schema = RefOr::Ref(Ref::from_schema_name(ErrorBody::name()));
    let bad = ResponseBuilder::new()
        .description("What went wrong, and what to do about it")
        .content("application/json", ContentBuilder::new().schema::<RefOr<_>>(Some(error_schema)).build());
    operation.response(code, good.build()).response("default", bad.build())
}

fn text_parameter(name: &str, place: ParameterIn, description: Option<&str>) -> Parameter {
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(description)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_description_is_the_one_that_is_checked_in() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let kept = std::fs::read_to_string(path).unwrap();
        let made = openapi().to_pretty_json().unwrap();
        assert!(kept.trim() == made.trim(), "write it anew: levee openapi > docs/openapi.json");
    }

    #[test]
    fn every_reference_has_its_schema() {
        let document: serde_json::Value = serde_json::to_value(openapi()).unwrap();
        let known: BTreeSet<&str> =
            document["components"]["schemas"].as_object().unwrap().keys().map(String::as_str).collect();
        let text = document.to_string();
        let references: BTreeSet<&str> =
            text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(references.is_subset(&known), "{:?}", references.difference(&known));
        assert!(references.len() > 15);
    }

    #[test]
    fn no_two_types_share_a_name() {
        let mut known = BTreeMap::new();
        let answers = ROUTES.iter().filter_map(|route| route.answer.schema());
        let bodies = ROUTES.iter().filter_map(|route| Some(route.body?()));
        for (name, schema) in answers.chain(bodies).flat_map(|named| named.components) {
            let schema = serde_json::to_string(&schema).unwrap();
            let first = known.entry(name.clone()).or_insert_with(|| schema.clone());
            assert_eq!(*first, schema, "{name}");
        }
        assert!(known.contains_key("Plan") && known.contains_key("StepRecord"), "{:?}", known.keys());
    }

    #[test]
    fn operations_are_named_once() {
        let names: BTreeSet<&str> = ROUTES.iter().map(|route| route.operation).collect();
        assert_eq!(names.len(), ROUTES.len());
    }
}
