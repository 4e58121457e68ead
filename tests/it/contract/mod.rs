//! One contract for every broker: each property below is written once and runs in every place where messages wait.
//!
//! What a broker declares in its [`Capabilities`](helix_host::broker::Capabilities) decides which half of a property holds
//! there: the promise, or the clean refusal. Nothing is skipped. A property names the capabilities it asks for; asking for
//! another one, or not asking for a named one, fails it, so the table in [`capabilities`] says what is really exercised.

pub mod brokers;
mod stage;

mod away;
mod capabilities;
mod carry;
mod delivery;
mod epoch;
mod order;
mod publish;
mod scan;
mod secure;
mod store;
mod topology;

use self::brokers::Place;
use self::capabilities::Flag;
use self::stage::Stage;

/// A row of the table.
struct Property {
    name: &'static str,
    asks: &'static [Flag],
}

async fn run(place: Place, asks: &'static [Flag], property: impl AsyncFnOnce(&Stage)) {
    let stage = Stage::new(place, asks);
    property(&stage).await;
    stage.check_asked();
}

/// One test for each property in each place: `contract::kafka::dropped_receipt_comes_again`.
macro_rules! contract {
    (@place $module:ident $place:ident $($room:ident $property:ident [$($flag:ident)*])*) => {
        mod $module {
            use super::{Flag, Place, run};
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $property() {
                    run(Place::$place, &[$(Flag::$flag),*], super::$room::$property).await;
                }
            )*
        }
    };
    ($($room:ident::$property:ident [$($flag:ident)*])*) => {
        const PROPERTIES: &[Property] = &[
            $(Property { name: stringify!($property), asks: &[$(Flag::$flag),*] }),*
        ];
        contract!(@place embedded_queues EmbeddedQueues $($room $property [$($flag)*])*);
        contract!(@place embedded_topics EmbeddedTopics $($room $property [$($flag)*])*);
        contract!(@place rabbitmq RabbitMq $($room $property [$($flag)*])*);
        contract!(@place kafka Kafka $($room $property [$($flag)*])*);
    };
}

contract! {
    delivery::acknowledged_is_gone []
    delivery::dropped_receipt_comes_again [Redelivery]
    delivery::unsettled_is_delivered_again [Redelivery]
    delivery::a_receipt_is_void_after_close []
    delivery::a_hole_is_delivered_again_after_reopening []
    delivery::the_window_bounds_what_is_unsettled []
    delivery::pause_stops_pulling []
    delivery::a_cancelled_recv_loses_nothing []
    order::one_queue_or_partition_is_in_order []
    order::one_key_stays_in_one_partition_in_order []
    order::consumers_share_without_doubles [Shared]
    order::keys_stay_in_order_when_consumers_change [KeyOrderShared]
    order::a_leaving_consumer_finishes_before_the_next_begins [KeyOrderShared]
    order::higher_priority_first [Priorities]
    order::a_delayed_message_waits [Delays]
    carry::every_field_survives []
    carry::headers_survive []
    carry::every_byte_survives []
    carry::what_is_put_back_comes_again_as_it_was []
    carry::a_tombstone_is_not_an_empty_value [Tombstones]
    publish::an_unknown_target_stores_nothing []
    publish::too_large_is_refused_and_the_next_one_passes []
    publish::concurrent_publishes_are_all_confirmed_and_there []
    publish::after_close_nothing_is_accepted []
    publish::the_other_kind_is_refused_where_there_is_none [Tasks Events]
    scan::a_stretch_is_read_again [Scan]
    scan::an_offset_is_found_by_time [Scan]
    scan::reading_leaves_the_group_alone [Scan]
    topology::what_is_missing_is_created_once []
    topology::what_differs_is_named_and_left_alone []
    topology::depth_is_what_waits []
    topology::a_consumer_of_nothing_is_told []
    topology::health_is_up []
}
