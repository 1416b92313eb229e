//! What a guest that does not answer is at: the difference between one that spins, one that waits for an
//! interrupt that never came, and one that QEMU itself has stopped.

use serde_json::{Value, json};

use super::qmp::Qmp;
use crate::vmm::VmmError;

/// Virtual CPUs to tell of: a log line is no core dump.
const MAX_CPUS: usize = 8;

/// The VM's state, and of each virtual CPU where it is, in which ring, and whether it is halted.
///
/// # Errors
/// QEMU does not answer either.
pub(super) async fn examine(qmp: &Qmp) -> Result<String, VmmError> {
    let status = qmp.execute("query-status", Value::Null).await?;
    let registers = json!({ "command-line": "info registers -a" });
    let registers = qmp.execute("human-monitor-command", registers).await?;
    let status = status["status"].as_str().unwrap_or("in an unknown state");
    Ok(format!(
        "{status}; {}",
        summary(registers.as_str().unwrap_or_default())
    ))
}

/// Of a dump of all registers: `CPU#0 RIP=ffffffff81000000 CPL=0 HLT=1, CPU#1 ...`.
fn summary(registers: &str) -> String {
    let cpus = registers.split("CPU#").skip(1).take(MAX_CPUS);
    let lines = cpus.map(|cpu| {
        let mut words = cpu.split_whitespace();
        let number = words.next().unwrap_or("?");
        let told = words.filter(|word| ["RIP=", "CPL=", "HLT="].iter().any(|name| word.starts_with(name)));
        std::iter::once(format!("CPU#{number}"))
            .chain(told.map(str::to_owned))
            .collect::<Vec<_>>()
            .join(" ")
    });
    lines.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_registers_it_tells_three() {
        let dump = "\r\nCPU#0\r\nRAX=0000000000000001 RBX=0000000000000000\r\n\
            RIP=ffffffff81c0a0eb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n\
            ES =0000 0000000000000000 ffffffff 00c00000\r\n\r\nCPU#1\r\nRIP=0000000000401000 CPL=3 HLT=0\r\n";
        assert_eq!(
            summary(dump),
            "CPU#0 RIP=ffffffff81c0a0eb CPL=0 HLT=1, CPU#1 RIP=0000000000401000 CPL=3 HLT=0"
        );
        assert_eq!(summary(""), "");
    }
}
