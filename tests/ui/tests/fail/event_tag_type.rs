use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(score, weights))]
struct Graded {
    score: f64,
    weights: Vec<f64>,
}

fn main() {}
