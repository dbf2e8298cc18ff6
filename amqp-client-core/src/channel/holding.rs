use super::Channel;

impl Channel {
    /// Leaves deliveries unsettled until the channel is closed, unless you settle them.
    ///
    /// Without this, a [`Delivery`](crate::Delivery) that is dropped is requeued. A [`Consumer`](crate::Consumer) that is dropped is
    /// cancelled, and the deliveries that it has not taken are requeued; [`shutdown`](crate::Connection::shutdown) does the same
    /// with all consumers. Each message that is requeued in this way comes after those that another consumer got meanwhile.
    ///
    /// With this, none of these sends anything, and the broker keeps the messages for this channel. When the channel or the connection
    /// is closed, the broker requeues all of them at once, in their order. So the next consumer of a queue with a
    /// [single active consumer](crate::QueueOptions::single_active_consumer) begins where this one ended.
    ///
    /// ```no_run
    /// # use amqp_client_core as amqp_client_tokio;
    /// # use amqp_client_tokio::Connection;
    /// use amqp_client_tokio::ConsumeOptions;
    ///
    /// # async fn example(connection: Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// let channel = connection.open_channel().await?;
    /// channel.hold_until_closed();
    /// channel.basic_qos(20).await?;
    /// let mut consumer = channel.basic_consume("orders", ConsumeOptions::new()).await?;
    /// while let Some(delivery) = consumer.next().await {
    ///     let delivery = delivery?;
    /// #   let handled = true;
    ///     if !handled {
    ///         break;
    ///     }
    ///     delivery.ack()?;
    /// }
    /// // The delivery that was not handled, and those behind it, go to the next consumer in their order.
    /// channel.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Call it before you consume; it cannot be undone. Set a prefetch limit: the broker goes on delivering to a consumer that was
    /// dropped until the limit is reached, and nobody gets these messages before the channel is closed.
    ///
    /// What you call yourself still works: `nack`, `reject`, `cancel`, `basic_recover`. `ack_up_to` and `nack_up_to` leave out what is
    /// held. [`OnPanic::Reject`](crate::OnPanic::Reject) still rejects. A consumer of such a channel is never
    /// [paused](crate::Consumer#consumers-that-lag). The future of a `basic_consume` that is dropped before its reply still cancels
    /// the consumer.
    pub fn hold_until_closed(&self) {
        if let Some(channel) = self.lock().channel(self.place()) {
            channel.holding = true;
        }
    }

    /// Returns whether [`hold_until_closed`](Self::hold_until_closed) was called.
    pub(crate) fn is_holding(&self) -> bool {
        self.lock().channel(self.place()).is_some_and(|channel| channel.holding)
    }
}
