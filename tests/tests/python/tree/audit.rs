//! The audit: reads the events from the tables and the stream, and finds where they are not one tree for each order.
//!
//! Invariant: no event is read through the framework, and edges are compared with what the handlers recorded of their
//! runs.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::Uuid;
use serde::Deserialize;
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::services::{ORDERS, root_context};

/// The columns of the events of a schema, as an entry of the bus names them in its payload.
const STORED_SQL: &str = "
    SELECT json_build_object('event_type', event_type, 'event_id', event_id, 'correlation_id', correlation_id,
        'causation_id', causation_id, 'tenant_id', NULLIF(tenant_id, '00000000-0000-0000-0000-000000000000'),
        'actor_id', actor_id, 'metadata', COALESCE(attributes, '{}'), 'number', payload -> 'number')::text
    FROM {schema}.events JOIN {schema}.streams USING (stream_no) ORDER BY position";

/// An event with its context.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Node {
    pub(super) event_type: String,
    pub(super) event_id: Uuid,
    pub(super) correlation_id: Uuid,
    pub(super) causation_id: Option<Uuid>,
    pub(super) tenant_id: Option<Uuid>,
    pub(super) actor_id: Option<String>,
    pub(super) metadata: Map<String, Value>,
    /// The number of the order.
    pub(super) number: u64,
}

/// Returns the events of a schema.
pub(super) async fn stored(database_url: &str, schema: &str) -> Vec<Node> {
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    let sql = AssertSqlSafe(STORED_SQL.replace("{schema}", schema));
    let rows: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
}

/// Ids of an event, and of one that a run of a handler made because of it.
pub(super) type Edge = (Uuid, Uuid);

/// What the services have left.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
    /// The events in the tables of both stores.
    pub(super) stored: Vec<Node>,
    /// The entries of the stream, repeated ones too.
    pub(super) published: Vec<Node>,
    /// What the handlers of both services recorded, repeated runs too.
    pub(super) runs: Vec<Edge>,
}

impl Evidence {
    /// Returns the faults; none if each order has one tree, whose edges are runs of the handlers.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, what: &str, of: &dyn std::fmt::Debug| {
            if !holds {
                faults.push(format!("{what}: {of:?}"));
            }
        };
        let (payments, relayed): (Vec<_>, Vec<_>) =
            self.published.iter().partition(|node| node.event_type == "PaymentTaken");
        let by_id = |nodes: Vec<&Node>| {
            let mut nodes: Vec<_> = nodes.into_iter().cloned().collect();
            nodes.sort_by_key(|node| node.event_id);
            nodes
        };
        check(by_id(self.stored.iter().collect()) == by_id(relayed), "entries and rows differ", &self.stored.len());

        let mut payments = by_id(payments);
        payments.dedup(); // a repeated run publishes its event again
        let nodes: Vec<_> = self.stored.iter().chain(&payments).collect();
        let ids: BTreeSet<_> = nodes.iter().map(|node| node.event_id).collect();
        check(ids.len() == nodes.len(), "an event is there twice", &nodes.len());

        let mut trees: BTreeMap<u64, Vec<&Node>> = BTreeMap::new();
        nodes.iter().for_each(|node| trees.entry(node.number).or_default().push(node));
        check(trees.keys().copied().eq(0..ORDERS), "orders are missing, or too many", &trees.keys());
        for (number, mut tree) in trees {
            tree.sort_by_key(|node| &node.event_type);
            let is_tree = match tree[..] {
                [order, payment, shipment] => tree.iter().copied().eq(&expected_tree(number, order, payment, shipment)),
                _ => false,
            };
            check(is_tree, "no tree of an order, its payment and its shipment", &tree);
        }

        let edges: BTreeSet<_> = nodes.iter().filter_map(|node| Some((node.causation_id?, node.event_id))).collect();
        let runs: BTreeSet<_> = self.runs.iter().copied().collect();
        let without_run: Vec<_> = edges.difference(&runs).collect();
        check(without_run.is_empty(), "edges without a run", &without_run);
        // a run whose process died before it was stored is repeated, and makes an event of another id
        let handled = |edges: &BTreeSet<Edge>| edges.iter().map(|(cause, _)| *cause).collect::<BTreeSet<_>>();
        check(handled(&edges) == handled(&runs), "events with a run and without an edge", &edges.len());
        check(handled(&edges).len() == edges.len(), "events with several effects", &edges.len());
        faults
    }
}

/// Returns the tree of an order; the ids of its events are those of the given ones.
fn expected_tree(number: u64, order: &Node, payment: &Node, shipment: &Node) -> [Node; 3] {
    let given = root_context(number);
    let metadata = given.attributes.to_map();
    let node = |event_type: &str, event_id, causation_id, is_whole, metadata| Node {
        event_type: event_type.into(),
        event_id,
        correlation_id: given.correlation_id.unwrap(),
        causation_id,
        tenant_id: given.tenant_id.filter(|_| is_whole),
        actor_id: given.actor_id.clone().filter(|_| is_whole),
        metadata,
        number,
    };
    // the Python library sets cause and correlation, and the service the rest for orders with even numbers
    let is_whole = number.is_multiple_of(2);
    let trace = || metadata.clone().into_iter().filter(|(key, _)| is_whole && key.starts_with("trace")).collect();
    [
        node("OrderPlaced", order.event_id, None, true, metadata.clone()),
        node("PaymentTaken", payment.event_id, Some(order.event_id), is_whole, trace()),
        node("ShipmentPrepared", shipment.event_id, Some(payment.event_id), is_whole, trace()),
    ]
}
