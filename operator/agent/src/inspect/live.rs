//! What the shell looks into: the tables, the reconciler and the BPF maps of this agent.

use std::sync::Arc;

use epic_datapath::{BpfMaps, Maps};
use epic_lb::{EpicLayout, Handle, MapKey, MapValue, Progress, Reader, Snapshot};
use epic_reconciler::{Layout as _, MapError, Maps as _};
use epic_shell::{Part, Side, Subject};

/// Tells how the parts of a process stand.
pub type Parts = Arc<dyn Fn() -> Vec<Part> + Send + Sync>;

/// A running agent.
pub struct Live {
    /// Whose maps these are.
    pub side: Side,
    /// The tables.
    pub reader: Reader,
    /// The reconciler.
    pub handle: Handle,
    /// The maps.
    pub maps: Arc<Maps>,
    /// What else of the process has something to say.
    pub parts: Parts,
}

impl Subject for Live {
    type Side = Side;

    fn tables(&self) -> Arc<Snapshot> {
        self.reader.snapshot()
    }

    fn progress(&self) -> Progress {
        self.handle.progress()
    }

    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        let maps = BpfMaps::new(Arc::clone(&self.maps));
        let mut found = Vec::new();
        for map in 0..EpicLayout::MAPS.len() {
            maps.read(map, &mut |key, value| found.push((key, value)))?;
        }
        Ok(found)
    }

    fn side(&self) -> &Side {
        &self.side
    }

    fn parts(&self) -> Vec<Part> {
        (self.parts)()
    }
}
