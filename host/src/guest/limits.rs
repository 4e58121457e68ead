//! What one instance may take: memory, table elements, instances. Refusals are remembered for the outcome.

use wasmtime::ResourceLimiter;

use crate::config::valid::Plugin;

/// Core modules of one component tree; componentize-py uses 21.
const INSTANCES: usize = 64;

#[derive(Debug)]
pub(super) struct Limits {
    memory_bytes: usize,
    table_elements: usize,
    /// All linear memories together, now.
    memory: usize,
    /// What was granted last: taken back when the growing fails for another reason.
    granted: usize,
    /// Set when growing was refused; read and cleared per call.
    pub(super) memory_refused: bool,
}

impl Limits {
    pub(super) fn new(plugin: &Plugin) -> Self {
        Self {
            memory_bytes: usize::try_from(plugin.memory_bytes).unwrap_or(usize::MAX),
            table_elements: usize::try_from(plugin.table_elements).unwrap_or(usize::MAX),
            memory: 0,
            granted: 0,
            memory_refused: false,
        }
    }

    /// Past three quarters of its memory an instance is retired: the next call may be the one that fails.
    pub(super) fn nearly_full(&self) -> bool {
        self.memory > self.memory_bytes / 4 * 3
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let total = self.memory.saturating_add(growth);
        if total > self.memory_bytes {
            self.memory_refused = true;
            return Ok(false);
        }
        self.memory = total;
        self.granted = growth;
        Ok(true)
    }

    /// A memory's own maximum is looked at after the limit.
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory = self.memory.saturating_sub(std::mem::take(&mut self.granted));
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_elements)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        8
    }

    fn tables(&self) -> usize {
        INSTANCES
    }
}
