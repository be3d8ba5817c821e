//! The service as its clients see it, on an app in memory.

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

async fn answer(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn post(path: &str, key: &str, json: &str) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/json").header("idempotency-key", key);
    request.body(Body::from(json.to_owned())).unwrap()
}

#[tokio::test]
async fn a_deposit_is_in_the_balances() {
    let app = my_app::app().start().await.unwrap();
    let router = my_app::routes::router(&app);
    let (status, body) = answer(&router, post("/accounts/ada/deposits", "1", r#"{"cents":120}"#)).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"position":1}"#));
    let again = answer(&router, post("/accounts/ada/deposits", "1", r#"{"cents":120}"#)).await;
    assert_eq!(again, (StatusCode::OK, r#"{"position":1}"#.into()), "it takes effect once");
    assert_eq!(answer(&router, get("/balances?position=1")).await, (StatusCode::OK, r#"{"cents":{"ada":120}}"#.into()));
    let (status, body) = answer(&router, post("/accounts/ada/withdrawals", "2", r#"{"cents":121}"#)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(body.contains("the account has only 120 cents"), "{body}");
}

#[tokio::test]
async fn prometheus_reads_what_the_app_has_counted() {
    let app = my_app::app().start().await.unwrap();
    let router = my_app::routes::router(&app);
    answer(&router, post("/accounts/ada/deposits", "1", r#"{"cents":120}"#)).await;
    app.settled().await.unwrap();
    let (status, page) = answer(&router, get("/metrics")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    for line in [
        r#"eventbus_handler_seconds_count{group="receipt",handler="receipt",outcome="succeeded"} 1"#,
        r#"eventbus_projection_lag_events{projection="balances"} 0"#,
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line} is not in {page}");
    }
}
