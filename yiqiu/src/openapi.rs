//! The description of the API: one OpenAPI document for every role of this process, and pages to read it in a browser.

use std::fmt::Write;

use axum::{
    Router,
    http::header,
    response::{Html, IntoResponse},
    routing::get,
};
use serde_json::{Value, json};
use utoipa::openapi::OpenApi;
use yiqiu_base::Code;

/// The page at `/docs`; it reads `/openapi.json` and needs nothing else.
const PAGE: &str = include_str!("docs.html");

/// `/openapi.json`, `/docs` and `/docs/problems`.
pub fn router(api: &OpenApi, endpoints: &Value) -> anyhow::Result<Router> {
    let document = serde_json::to_string(&document(api, endpoints)?)?;
    let problems = problems_page();
    Ok(Router::new()
        .route(
            "/openapi.json",
            get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document).into_response() }),
        )
        .route("/docs", get(|| async { Html(PAGE) }))
        .route("/docs/problems", get(move || async move { Html(problems) })))
}

/// Adds to what the tiers declare what holds for all of them: how to sign in, and what a refusal looks like.
fn document(api: &OpenApi, endpoints: &Value) -> anyhow::Result<Value> {
    let mut document = serde_json::to_value(api)?;
    document["info"] = json!({
        "title": "Yiqiu",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Resources, Components and Projects over HTTP. Amounts are integers in base units: millicores, \
            bytes, operations a second, milliseconds since 1970. Lists are pages: `next` is the cursor of the one \
            after. A POST may carry an `Idempotency-Key`; an update may carry `If-Match` with the generation that was \
            seen. A refusal is `application/problem+json` with a stable `code`.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["security"] = json!([{"bearer": []}]);
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "A token, as `yiqiu token create` prints it."},
    });
    document["components"]["schemas"]["Problem"] = json!({
        "type": "object",
        "description": "A refusal (RFC 9457).",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"type": "string", "description": "A page on the code."},
            "title": {"type": "string", "description": "What the code means."},
            "status": {"type": "integer", "description": "The HTTP status again."},
            "code": {"type": "string", "enum": Code::ALL, "description": "Stable; branch on this."},
            "detail": {"type": "string", "description": "What was wrong here, what was expected, what to do."},
            "request_id": {"type": "string", "description": "Finds the request in the logs."},
            "data": {"description": "The same as data, in a shape that the code names."},
        },
    });
    let refusal = json!({
        "description": "A refusal",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    });
    if let Some(paths) = document["paths"].as_object_mut() {
        for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()) {
            if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
                responses.entry("default").or_insert_with(|| refusal.clone());
                responses.iter_mut().filter(|(status, _)| status.starts_with(['4', '5'])).for_each(as_problem);
            }
        }
        for (path, what, answer) in OPEN {
            paths.insert((*path).into(), open_path(what, answer));
        }
    }
    document["x-endpoints"] = endpoints.clone();
    Ok(document)
}

/// Refusals have a media type of their own, which the tiers do not repeat at every operation.
fn as_problem((_, response): (&String, &mut Value)) {
    if let Some(content) = response.get_mut("content").and_then(Value::as_object_mut)
        && let Some(shape) = content.remove("application/json")
    {
        content.insert("application/problem+json".into(), shape);
    }
}

/// The paths that need no credential.
const OPEN: &[(&str, &str, &str)] = &[
    ("/healthz", "Whether the process answers at all.", "text/plain"),
    ("/readyz", "Whether it can do its work: its databases and its loops. 503 if not.", "application/json"),
    ("/metrics", "Metrics for Prometheus.", "text/plain"),
    ("/v1/endpoints", "Where each tier is served; null: here.", "application/json"),
];

fn open_path(what: &str, answer: &str) -> Value {
    json!({"get": {
        "tags": ["server"], "summary": what, "security": [],
        "responses": {"200": {"description": what, "content": {answer: {}}}},
    }})
}

fn problems_page() -> String {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Yiqiu: problems</title>\
         <style>body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}\
         dt{font-weight:600;margin-top:1rem}dt:target{background:#ff9;color:#000}code{font-size:1em}\
         small{color:#777;font-weight:400}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}</style>\
         <h1>Problems</h1><p>Every refusal has one of these codes. They are stable. <a href=/docs>The API</a></p><dl>",
    );
    for code in Code::ALL {
        let meaning = code.meaning();
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "<dt id={code}><code>{code}</code> <small>HTTP {}</small></dt><dd>{meaning}</dd>",
            code.http()
        );
    }
    page + "</dl></html>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_anchor() {
        let page = problems_page();
        for code in Code::ALL {
            assert!(page.contains(&format!("<dt id={code}>")), "{code}");
        }
    }

    #[test]
    fn the_document_says_how_to_sign_in_and_how_it_refuses() {
        let api = utoipa::openapi::OpenApiBuilder::new().build();
        let document = document(&api, &json!({})).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
        assert!(document["paths"]["/readyz"]["get"]["security"].as_array().unwrap().is_empty());
    }
}
