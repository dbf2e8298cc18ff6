//! The input of RabbitMQ's scripts: environment and configuration.

use std::env;
use std::path::Path;
use std::process::Command;

/// The ports of one node, all on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) distribution: u16,
    /// Used when the management plugin is on.
    pub(super) management: u16,
}

/// Removes the variables of the caller's environment that the scripts would read.
pub(super) fn clear(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let prefixes = ["RABBITMQ_", "ERL_", "CONF_ENV_FILE", "NOTIFY_SOCKET"];
        if prefixes.iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
}

/// Names the node, and keeps everything it reads and writes in its folder.
pub(super) fn set(command: &mut Command, name: &str, home: &Path, epmd_port: u16, ports: Ports) {
    clear(command);
    let folder = home.join(name);
    let erlang = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false \
                  +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none";
    command
        .current_dir(&folder)
        .env("HOME", home)
        .env("RABBITMQ_NODENAME", format!("{name}@localhost"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_PID_FILE", folder.join("pid"))
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang)
        .env("RABBITMQ_CTL_ERL_ARGS", "+S 1:1 +sbwt none")
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
}

/// The text of `rabbitmq.conf`; `lines` come last, where they win.
pub(super) fn config(ports: Ports, management: bool, lines: &[String]) -> String {
    let mut text = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\n\
         loopback_users = none\n\
         disk_free_limit.absolute = 50MB\n\
         log.console = false\n",
        ports.amqp
    );
    if management {
        text +=
            &format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {}\n", ports.management);
    }
    for line in lines {
        text += line;
        text.push('\n');
    }
    text
}

/// The text of the file of plugins.
pub(super) fn plugins(names: &[String]) -> String {
    format!("[{}].\n", names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { amqp: 1111, distribution: 2222, management: 3333 };

    #[test]
    fn the_configuration_ends_with_the_callers_lines() {
        let text = config(PORTS, false, &["heartbeat = 7".into(), "frame_max = 8192".into()]);
        assert!(text.starts_with("listeners.tcp.1 = 127.0.0.1:1111\n"));
        assert!(text.ends_with("\nheartbeat = 7\nframe_max = 8192\n"));
        assert!(!text.contains("3333"));
        assert!(config(PORTS, true, &[]).contains("\nmanagement.tcp.port = 3333\n"));
    }

    #[test]
    fn plugins_are_an_erlang_list() {
        assert_eq!(plugins(&[]), "[].\n");
        assert_eq!(
            plugins(&["rabbitmq_a".into(), "rabbitmq_b".into()]),
            "[rabbitmq_a,rabbitmq_b].\n"
        );
    }

    #[test]
    fn the_environment_configures_the_node_completely() {
        let mut command = Command::new("true");
        set(&mut command, "kit", Path::new("/h"), 4444, PORTS);
        let value = |wanted: &str| {
            let found = command.get_envs().find(|(name, _)| *name == wanted);
            found.and_then(|(_, value)| value).map(|value| value.to_string_lossy().into_owned())
        };
        assert_eq!(value("RABBITMQ_NODENAME").unwrap(), "kit@localhost");
        assert_eq!(value("RABBITMQ_MNESIA_BASE").unwrap(), "/h/kit/data");
        assert_eq!(value("RABBITMQ_DIST_PORT").unwrap(), "2222");
        assert_eq!(value("ERL_EPMD_PORT").unwrap(), "4444");
        assert_eq!(value("HOME").unwrap(), "/h");
    }
}
