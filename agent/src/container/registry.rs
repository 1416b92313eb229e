//! All containers by id, and all their processes by pid.

use std::collections::{BTreeMap, HashMap};

use super::Container;
use super::process::Process;
use crate::failure::Failure;

/// What is known of everything that runs. Behind one lock, which is held for single steps only.
#[derive(Debug, Default)]
pub struct Registry {
    containers: BTreeMap<String, Slot>,
    /// Living processes the host knows. An entry is made before the process can be reaped.
    by_pid: HashMap<i32, Name>,
    generations: u64,
}

/// A container's place.
#[derive(Debug)]
enum Slot {
    /// Being created or deleted: the id is taken and nothing else may be done.
    Busy,
    Ready(Box<Container>),
}

/// Whose process a pid is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// containerd's id of the container.
    pub container_id: String,
    /// Empty for init.
    pub exec_id: String,
    /// Of the process.
    pub generation: u64,
}

/// Longest id: containerd's limit.
const MAX_ID: usize = 76;

/// Most containers: a pod has a handful, and each costs the agent memory.
const MAX_CONTAINERS: usize = 256;

impl Registry {
    /// Takes `id` for a container that is about to be created.
    ///
    /// # Errors
    /// `InvalidArgument`, `AlreadyExists`.
    pub fn reserve(&mut self, id: &str) -> Result<(), Failure> {
        use bulkhead_agent_protocol::message::FailureKind;
        check_id(id)?;
        if self.containers.contains_key(id) {
            let message = format!("container {id} already exists");
            return Err(Failure::new(FailureKind::AlreadyExists, "request", message));
        }
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Failure::state(format!(
                "a sandbox has at most {MAX_CONTAINERS} containers"
            )));
        }
        self.containers.insert(id.to_owned(), Slot::Busy);
        Ok(())
    }

    /// Fills the place that `reserve` took.
    pub fn fill(&mut self, id: &str, container: Container) {
        self.learn(id, "", &container.init);
        self.containers
            .insert(id.to_owned(), Slot::Ready(Box::new(container)));
    }

    /// Gives an id back.
    pub fn release(&mut self, id: &str) {
        self.containers.remove(id);
    }

    /// Takes a container out for deletion; its id stays taken until `release`.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` while another request creates or deletes it.
    pub fn take(&mut self, id: &str) -> Result<Box<Container>, Failure> {
        self.get(id)?;
        match self.containers.insert(id.to_owned(), Slot::Busy) {
            Some(Slot::Ready(container)) => Ok(container),
            Some(Slot::Busy) | None => Err(unknown(id)),
        }
    }

    /// Puts a container back whose deletion failed.
    pub fn put_back(&mut self, id: &str, container: Box<Container>) {
        self.containers.insert(id.to_owned(), Slot::Ready(container));
    }

    /// The container of that id.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` while another request creates or deletes it.
    pub fn get(&mut self, id: &str) -> Result<&mut Container, Failure> {
        match self.containers.get_mut(id) {
            Some(Slot::Ready(container)) => Ok(container),
            Some(Slot::Busy) => Err(Failure::state(format!(
                "container {id} is being created or deleted"
            ))),
            None => Err(unknown(id)),
        }
    }

    /// Every container that is neither being created nor deleted.
    pub fn all(&mut self) -> impl Iterator<Item = (&String, &mut Container)> {
        self.containers.iter_mut().filter_map(|(id, slot)| match slot {
            Slot::Ready(container) => Some((id, &mut **container)),
            Slot::Busy => None,
        })
    }

    /// A number no process had before.
    pub fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    /// Makes a process known, so that its exit is told. Before it can be reaped.
    pub fn learn(&mut self, container_id: &str, exec_id: &str, process: &Process) {
        let name = Name {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            generation: process.generation,
        };
        self.by_pid.insert(process.pid, name);
    }

    /// Whose process has just been reaped. From now on the pid may be another's.
    pub fn forget(&mut self, pid: i32) -> Option<Name> {
        self.by_pid.remove(&pid)
    }

    /// Whose living process `pid` is.
    pub fn name_of(&self, pid: i32) -> Option<&Name> {
        self.by_pid.get(&pid)
    }

    /// The container of the process of that name, if it is still that very process.
    pub fn container_of(&mut self, name: &Name) -> Option<&mut Container> {
        let container = self.get(&name.container_id).ok()?;
        let generation = container.process_mut(&name.exec_id)?.generation;
        (generation == name.generation).then_some(container)
    }
}

/// The same rule as on the host, checked again because ids become paths.
fn check_id(id: &str) -> Result<(), Failure> {
    let mut previous = '.';
    let well_formed = id.len() <= MAX_ID
        && id.chars().all(|c| {
            let separator = matches!(c, '.' | '_' | '-');
            let fits = c.is_ascii_alphanumeric() || (separator && previous.is_ascii_alphanumeric());
            previous = c;
            fits
        })
        && previous.is_ascii_alphanumeric();
    if well_formed {
        Ok(())
    } else {
        Err(Failure::invalid(format!("id {id:?} is not well-formed")))
    }
}

fn unknown(id: &str) -> Failure {
    Failure::not_found(format!("container {id} not found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_their_directory_are_refused() {
        for good in ["a", "0-a.b_c", &"x".repeat(76)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "-a", "a-", "a..b", "ü", &"x".repeat(77)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_is_taken_until_it_is_released() {
        let mut registry = Registry::default();
        registry.reserve("a").unwrap();
        assert!(registry.reserve("a").is_err());
        assert!(registry.get("a").is_err());
        registry.release("a");
        assert!(registry.reserve("a").is_ok());
    }
}
