//! The nodes that a walk has reached and not yet left, with their cotangents.

use crate::{Tensor, backward::accumulate, graph::Edge};
use attentia_backend::Result;
use std::collections::{BTreeMap, btree_map::Entry};

/// A node that waits for its turn.
pub(crate) struct Pending {
    /// An edge to the node; which of its outputs does not matter.
    pub edge: Edge,
    /// The cotangent of each output so far; `None` is zero.
    pub grads: Vec<Option<Tensor>>,
}

/// Nodes by id. The one of the highest id is kept apart, so that a chain, the most frequent graph, touches no map.
///
/// Invariant: `top`, if there is one, has a higher id than all of `rest`.
#[derive(Default)]
pub(crate) struct Frontier {
    top: Option<Pending>,
    rest: BTreeMap<u64, Pending>,
}

impl Pending {
    fn new(edge: Edge, gradient: Tensor) -> Pending {
        let (output, outputs) = (edge.output(), edge.node().map_or(0, |n| n.outputs.len()));
        let mut grads = Vec::with_capacity(outputs.max(output + 1));
        grads.resize_with(output, || None);
        grads.push(Some(gradient));
        grads.resize_with(outputs.max(output + 1), || None);
        Pending { edge, grads }
    }

    fn add(&mut self, output: usize, gradient: Tensor) -> Result<()> {
        if let Some(slot) = self.grads.get_mut(output) {
            *slot = Some(match slot.take() {
                Some(before) => accumulate(before, gradient)?,
                None => gradient,
            });
        }
        Ok(())
    }
}

impl Frontier {
    /// Adds to the cotangent of the output that the edge leads to.
    pub fn add(&mut self, edge: Edge, gradient: Tensor) -> Result<()> {
        let id = edge.id();
        let highest = match &self.top {
            Some(top) => Some(top.edge.id()),
            None => self.rest.last_key_value().map(|(&id, _)| id),
        };
        match (&mut self.top, highest) {
            (Some(top), Some(highest)) if highest == id => return top.add(edge.output(), gradient),
            (_, Some(highest)) if highest >= id => {}
            (top, _) => {
                if let Some(lower) = top.replace(Pending::new(edge, gradient)) {
                    self.rest.insert(lower.edge.id(), lower);
                }
                return Ok(());
            }
        }
        match self.rest.entry(id) {
            Entry::Occupied(mut place) => place.get_mut().add(edge.output(), gradient),
            Entry::Vacant(place) => {
                place.insert(Pending::new(edge, gradient));
                Ok(())
            }
        }
    }

    /// Takes what has been added so far for the output that the edge leads to. The node keeps its place.
    pub fn take(&mut self, edge: &Edge) -> Option<Tensor> {
        let pending = match &mut self.top {
            Some(top) if top.edge.id() == edge.id() => top,
            _ => self.rest.get_mut(&edge.id())?,
        };
        pending.grads.get_mut(edge.output())?.take()
    }

    /// Takes the node of the highest id: all that could add to its cotangents has been taken before.
    pub fn pop(&mut self) -> Option<Pending> {
        self.top.take().or_else(|| self.rest.pop_last().map(|(_, pending)| pending))
    }
}
