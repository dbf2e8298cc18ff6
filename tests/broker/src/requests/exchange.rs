//! Exchanges and bindings.

use amqp_proto::method::*;
use amqp_proto::{FieldTable, ShortStr};

use super::{Done, check_arguments};
use crate::engine::{At, Engine};
use crate::exchange::{Binding, Exchange, Kind, Target};
use crate::fault::Fault;
use crate::name::Name;

impl Engine {
    pub(super) fn exchange_declare(&mut self, at: At, method: ExchangeDeclare) -> Done {
        let name = self.name(at, method.exchange.clone());
        if method.passive && name.text.is_empty() {
            return Err(Fault::refused("operation not permitted on the default exchange"));
        }
        let kind = Kind::named(&method.kind);
        if kind.is_none() && !method.passive {
            let text = format!("unknown exchange type '{}'", method.kind);
            return Err(match self.options.rabbitmq_4_3 {
                true => Fault::precondition(text),
                false => Fault::invalid(&text),
            });
        }
        if let Some(exchange) = self.exchanges.get(&name) {
            if !method.passive {
                check_equivalent(&name, exchange, &method)?;
            }
        } else {
            if method.passive {
                return Err(Fault::no_exchange(&name));
            }
            let Some(kind) = kind else { return Err(Fault::no_exchange(&name)) };
            if name.is_reserved() {
                return Err(Fault::reserved("exchange", &name));
            }
            if name.text.is_empty() {
                return Err(Fault::refused("operation not permitted on the default exchange"));
            }
            let exchange = Exchange {
                durable: method.durable,
                auto_delete: method.auto_delete,
                internal: method.internal,
                arguments: method.arguments,
                ..Exchange::new(kind)
            };
            self.exchanges.insert(name, exchange);
        }
        self.answer(at, method.no_wait, ExchangeDeclareOk {});
        Ok(())
    }

    pub(super) fn exchange_delete(&mut self, at: At, method: &ExchangeDelete) -> Done {
        let name = &self.name(at, method.exchange.clone());
        if name.text.is_empty() || name.is_reserved() {
            let text = format!("operation not permitted on the exchange '{}'", name.text);
            return Err(Fault::refused(text));
        }
        let used = self.exchanges.get(name).is_some_and(|exchange| !exchange.bindings.is_empty());
        if method.if_unused && used {
            return Err(Fault::precondition(format!("exchange {name} in use")));
        }
        self.exchanges.remove(name);
        self.forget_target(&Target::Exchange(name.clone()));
        self.answer(at, method.no_wait, ExchangeDeleteOk {});
        Ok(())
    }

    pub(super) fn bind(
        &mut self,
        at: At,
        source: &Name,
        target: Target,
        routing_key: ShortStr,
        arguments: FieldTable,
    ) -> Done {
        if source.text.is_empty() {
            return Err(Fault::refused("operation not permitted on the default exchange"));
        }
        if !self.exchanges.contains_key(source) {
            return Err(Fault::no_exchange(source));
        }
        self.check_target(at, &target)?;
        let Some(exchange) = self.exchanges.get_mut(source) else { return Ok(()) };
        let binding = Binding { target, routing_key, arguments };
        if !exchange.bindings.contains(&binding) {
            exchange.bindings.push(binding);
        }
        Ok(())
    }

    pub(super) fn unbind(
        &mut self,
        source: &Name,
        target: Target,
        routing_key: ShortStr,
        arguments: FieldTable,
    ) -> Done {
        let binding = Binding { target, routing_key, arguments };
        if let Some(exchange) = self.exchanges.get_mut(source) {
            exchange.bindings.retain(|other| *other != binding);
            self.drop_unused_exchange(source);
        }
        Ok(())
    }

    pub(super) fn check_target(&mut self, at: At, target: &Target) -> Done {
        match target {
            Target::Queue(name) => self.usable(at, name).map(|_| ()),
            Target::Exchange(name) if self.exchanges.contains_key(name) => Ok(()),
            Target::Exchange(name) => Err(Fault::no_exchange(name)),
        }
    }

    /// An exchange that goes when its last binding goes.
    pub(super) fn drop_unused_exchange(&mut self, name: &Name) {
        let unused = |exchange: &Exchange| exchange.auto_delete && exchange.bindings.is_empty();
        if self.exchanges.get(name).is_some_and(unused) {
            self.exchanges.remove(name);
            self.forget_target(&Target::Exchange(name.clone()));
        }
    }

    /// Removes all bindings to an entity that was deleted.
    pub(super) fn forget_target(&mut self, target: &Target) {
        let bound: Vec<_> = self
            .exchanges
            .iter_mut()
            .filter_map(|(name, exchange)| {
                let before = exchange.bindings.len();
                exchange.bindings.retain(|binding| binding.target != *target);
                (exchange.bindings.len() < before).then(|| name.clone())
            })
            .collect();
        for name in bound {
            self.drop_unused_exchange(&name);
        }
    }
}

fn check_equivalent(name: &Name, exchange: &Exchange, method: &ExchangeDeclare) -> Done {
    let flags = [
        ("durable", method.durable, exchange.durable),
        ("auto_delete", method.auto_delete, exchange.auto_delete),
        ("internal", method.internal, exchange.internal),
    ];
    let kind = ("type", method.kind.to_string(), exchange.kind.name().to_owned());
    let flags =
        flags.map(|(name, received, current)| (name, received.to_string(), current.to_string()));
    for (argument, received, current) in [kind].into_iter().chain(flags) {
        if received != current {
            let (received, current) = (format!("'{received}'"), format!("'{current}'"));
            return Err(Fault::inequivalent(argument, "exchange", name, &received, &current));
        }
    }
    let compared = ["alternate-exchange"];
    check_arguments("exchange", name, &compared, &method.arguments, &exchange.arguments)
}
