//! The incidents.

use std::fs;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use amqp_testkit::net::free_ports;
use amqp_testkit::{Proxy, RabbitMq};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::Outcome;
use crate::service::{Bug, Service, Setup};

/// An incident.
pub(crate) struct Incident {
    pub(crate) name: &'static str,
    /// The right answer.
    pub(crate) what: &'static str,
    run: fn() -> Outcome,
}

impl Incident {
    pub(crate) fn run(&self) -> Outcome {
        (self.run)()
    }
}

pub(crate) const INCIDENTS: &[Incident] = &[
    Incident {
        name: "ack-timeout",
        what: "the handler of one message hangs; the broker closes the channel, because the delivery is not acknowledged in time",
        run: ack_timeout,
    },
    Incident {
        name: "black-hole",
        what: "the network drops everything for 40 s, and no connection is closed",
        run: black_hole,
    },
    Incident {
        name: "poison",
        what: "the consumer always requeues one message, which is delivered again and again",
        run: poison,
    },
    Incident { name: "killed", what: "the broker is killed, and back after 20 s", run: killed },
    Incident {
        name: "redeclared",
        what: "while the client was away, the queue was replaced by one with other arguments",
        run: redeclared,
    },
    Incident {
        name: "hangs",
        what: "all handlers hang; the consumer has no prefetch limit, so the client stops reading",
        run: hangs,
    },
    Incident {
        name: "password",
        what: "the password of the user was changed during an outage",
        run: password,
    },
    Incident {
        name: "idle",
        what: "a proxy ends connections that were idle for 10 s; heartbeats are off",
        run: idle,
    },
    Incident { name: "alarm", what: "the broker has a memory alarm for 15 s", run: alarm },
    Incident {
        name: "certificate",
        what: "the certificate of the broker has expired when the client reconnects",
        run: certificate,
    },
    Incident { name: "deleted", what: "an operator deletes the queue", run: deleted },
    Incident { name: "forced", what: "an operator closes the connection", run: forced },
    Incident { name: "vhost", what: "an operator deletes the virtual host", run: vhost },
    Incident {
        name: "exchange",
        what: "an operator deletes the exchange to which the service publishes",
        run: exchange,
    },
];

/// The time before the fault, and after it.
const CALM: Duration = Duration::from_secs(12);

/// A broker behind a proxy.
struct Site {
    node: RabbitMq,
    proxy: Proxy,
}

impl Site {
    fn start() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let node = RabbitMq::builder().start()?;
        let proxy = Proxy::start(node.addr())?;
        for command in [
            &["add_user", "orders", "secret"][..],
            &["set_permissions", "orders", ".*", ".*", ".*"],
            &["add_vhost", "shop"],
            &["set_permissions", "-p", "shop", "orders", ".*", ".*", ".*"],
        ] {
            node.ctl(command)?;
        }
        Ok(Self { node, proxy })
    }

    /// The ordinary set-up of the service.
    fn setup(&self) -> Setup {
        let addr: SocketAddr = self.proxy.addr();
        Setup {
            uri: format!("amqp://orders:secret@{addr}/shop?heartbeat=10&connection_name=orders"),
            prefetch: Some(20),
            size: 200,
            pause: Duration::from_millis(200),
            bug: Bug::None,
        }
    }

    fn ctl(&self, command: &[&str]) -> Outcome {
        Ok(self.node.ctl(command).map(drop)?)
    }

    /// Lets the service run, with a fault in between.
    fn run(&self, setup: Setup, fault: impl FnOnce(&Service) -> Outcome) -> Outcome {
        let service = Service::start(setup)?;
        sleep(CALM);
        fault(&service)?;
        sleep(CALM);
        service.stop();
        Ok(())
    }
}

fn ack_timeout() -> Outcome {
    let site = Site::start()?;
    site.ctl(&["eval", "application:set_env(rabbit, consumer_timeout, 20000)."])?;
    site.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 5000)."])?;
    site.run(Setup { bug: Bug::HangsOnce, ..site.setup() }, |service| {
        service.break_it();
        sleep(Duration::from_secs(60));
        Ok(())
    })
}

fn black_hole() -> Outcome {
    let site = Site::start()?;
    site.run(site.setup(), |_| {
        site.proxy.stall(true);
        sleep(Duration::from_secs(40));
        site.proxy.stall(false);
        Ok(())
    })
}

fn poison() -> Outcome {
    let site = Site::start()?;
    site.run(Setup { bug: Bug::Requeues, ..site.setup() }, |service| {
        service.break_it();
        sleep(Duration::from_secs(40));
        Ok(())
    })
}

fn killed() -> Outcome {
    let site = Site::start()?;
    site.node.flush()?;
    // Without the proxy, which would accept connections for the broker.
    let (proxy, node) = (site.proxy.addr().to_string(), site.node.addr().to_string());
    let uri = site.setup().uri.replace(&proxy, &node);
    site.run(Setup { uri, ..site.setup() }, |_| {
        site.node.kill()?;
        sleep(Duration::from_secs(20));
        Ok(site.node.restart()?)
    })
}

fn redeclared() -> Outcome {
    let site = Site::start()?;
    site.run(site.setup(), |_| {
        site.proxy.refuse(true)?;
        site.proxy.cut();
        site.ctl(&["delete_queue", "-p", "shop", "orders.ship"])?;
        // As another program would: without the tool for it, by the broker's own functions.
        let declare = "rabbit_amqqueue:declare({resource, <<\"shop\">>, queue, <<\"orders.ship\">>}, true, false, \
                       [{<<\"x-max-length\">>, long, 1000}], none, <<\"orders\">>).";
        site.ctl(&["eval", declare])?;
        Ok(site.proxy.refuse(false)?)
    })
}

fn hangs() -> Outcome {
    let site = Site::start()?;
    let setup = Setup {
        bug: Bug::Hangs,
        prefetch: None,
        size: 500_000,
        pause: Duration::from_millis(100),
        ..site.setup()
    };
    site.run(setup, |service| {
        service.break_it();
        sleep(Duration::from_secs(60));
        Ok(())
    })
}

fn password() -> Outcome {
    let site = Site::start()?;
    site.run(site.setup(), |_| {
        site.proxy.refuse(true)?;
        site.proxy.cut();
        site.ctl(&["change_password", "orders", "another"])?;
        site.proxy.refuse(false)?;
        sleep(Duration::from_secs(10));
        Ok(())
    })
}

fn idle() -> Outcome {
    let site = Site::start()?;
    let uri = site.setup().uri.replace("heartbeat=10", "heartbeat=0");
    let setup = Setup { uri, pause: Duration::from_secs(25), ..site.setup() };
    site.run(setup, |_| {
        let mut bytes = site.proxy.bytes_from_server();
        let mut silent = 0;
        for _ in 0..70 {
            sleep(Duration::from_secs(1));
            let now = site.proxy.bytes_from_server();
            silent = if now == bytes { silent + 1 } else { 0 };
            bytes = now;
            if silent == 10 {
                site.proxy.cut();
            }
        }
        Ok(())
    })
}

fn alarm() -> Outcome {
    let site = Site::start()?;
    site.run(site.setup(), |_| {
        site.ctl(&["set_vm_memory_high_watermark", "0.00001"])?;
        sleep(Duration::from_secs(15));
        site.ctl(&["set_vm_memory_high_watermark", "0.4"])
    })
}

fn certificate() -> Outcome {
    let folder = std::env::temp_dir().join(format!("incidents-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    // Long enough for the start of the broker and of the service.
    let end = SystemTime::now() + Duration::from_secs(75);
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(folder.join("ca.pem"), authority.self_signed(&authority_key)?.pem())?;
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.not_after = end.into();
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    fs::write(folder.join("server.pem"), params.signed_by(&key, &issuer)?.pem())?;
    fs::write(folder.join("server.key"), key.serialize_pem())?;
    let [port] = free_ports()?;
    let file = |name: &str| folder.join(name).display().to_string();
    let node = RabbitMq::builder()
        .config_line(format!("listeners.ssl.1 = 127.0.0.1:{port}"))
        .config_line(format!("ssl_options.cacertfile = {}", file("ca.pem")))
        .config_line(format!("ssl_options.certfile = {}", file("server.pem")))
        .config_line(format!("ssl_options.keyfile = {}", file("server.key")))
        .start()?;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], port)))?;
    let site = Site { node, proxy };
    let uri = format!(
        "amqps://guest:guest@localhost:{}/%2f?heartbeat=10&connection_name=orders&cacertfile={}",
        site.proxy.addr().port(),
        file("ca.pem"),
    );
    site.run(Setup { uri, ..site.setup() }, |_| {
        sleep(end.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(2));
        site.proxy.cut();
        sleep(Duration::from_secs(10));
        Ok(())
    })?;
    Ok(fs::remove_dir_all(&folder)?)
}

fn deleted() -> Outcome {
    let site = Site::start()?;
    site.run(site.setup(), |_| site.ctl(&["delete_queue", "-p", "shop", "orders.ship"]))
}

fn forced() -> Outcome {
    let site = Site::start()?;
    site.run(site.setup(), |_| site.ctl(&["close_all_connections", "maintenance"]))
}

fn vhost() -> Outcome {
    let site = Site::start()?;
    site.run(site.setup(), |_| site.ctl(&["delete_vhost", "shop"]))
}

fn exchange() -> Outcome {
    let site = Site::start()?;
    let delete = "rabbit_exchange:delete({resource, <<\"shop\">>, exchange, <<\"orders\">>}, false, <<\"operator\">>).";
    site.run(site.setup(), |_| site.ctl(&["eval", delete]))
}
