//! The rows of the table of `bench service`. Upstream's values are kube-proxy 1.36 in its nftables mode on a quiet machine
//! of two cores, at 10, 1,000 and 10,000 Services.

use crate::bench::report::Aim::{self, AtLeast, AtMost};
use crate::bench::report::{Figure, figure};

pub const NEAR_SHORT: Figure =
    figure("short connections by ClusterIP, same node, vs clean", "", AtLeast(0.95), "0.78");
pub const FAR_SHORT: Figure =
    figure("short connections by ClusterIP, other node, vs clean", "", AtLeast(0.95), "0.73");
pub const NEAR_KEPT: Figure =
    figure("request/response by ClusterIP, same node, vs clean", "", AtLeast(0.98), "0.78");
pub const FAR_KEPT: Figure =
    figure("request/response by ClusterIP, other node, vs clean", "", AtLeast(0.98), "0.78");
pub const NFT_NEAR: Figure = figure("  nftables here: short connections, same node", "", Aim::None, "0.78");
pub const NFT_FAR: Figure = figure("  nftables here: short connections, other node", "", Aim::None, "0.73");
pub const PORT_NEAR: Figure =
    figure("NodePort from outside, backend there, short, vs clean", "", AtLeast(0.90), "0.78");
pub const PORT_FAR: Figure =
    figure("NodePort from outside by a node between, short, vs clean", "", AtLeast(0.90), "0.78");
pub const NFT_PORT_NEAR: Figure =
    figure("  nftables here: from outside, backend there", "", Aim::None, "0.78");
pub const NFT_PORT_FAR: Figure =
    figure("  nftables here: from outside by a node between", "", Aim::None, "0.78");
pub const OVERLAY_SHORT: Figure = figure("overlay vs kernel vxlan, short connections", "", AtLeast(1.0), "");
pub const OVERLAY_KEPT: Figure = figure("overlay vs kernel vxlan, request/response", "", AtLeast(1.0), "");
pub const OVERLAY_STREAM: Figure = figure("overlay vs kernel vxlan, stream", "", AtLeast(1.0), "");
pub const ROUTED_SHORT: Figure =
    figure("overlay vs clean routed, short connections", "", AtLeast(0.9), "0.83");
pub const ROUTED_KEPT: Figure = figure("overlay vs clean routed, request/response", "", AtLeast(0.9), "0.82");
pub const ROUTED_STREAM: Figure = figure("overlay vs clean routed, stream", "", AtLeast(0.9), "0.96");
pub const SPLICED: Figure = figure("stream between pods of a node, spliced, vs clean", "", AtLeast(2.0), "");
pub const SPLICED_KEPT: Figure = figure("  request/response, spliced, vs clean", "", Aim::None, "");
pub const CHANGE_P50: Figure =
    figure("endpoint changed in the API -> used, p50", "ms", AtMost(5.0), "16; 127; 5480");
pub const CHANGE_P99: Figure = figure("endpoint changed in the API -> used, p99", "ms", AtMost(20.0), "");
pub const OWN: Figure = figure("  the dataplane's own share, mean", "ms", AtMost(1.0), "");
pub const APPEAR: Figure =
    figure("new Service with endpoints -> answers, p50", "ms", AtMost(15.0), "1000; 1200; 11900");
pub const START: Figure =
    figure("start of a dataplane -> all maps written", "s", AtMost(1.0), "0.08; 0.19; 15.3");
pub const MEMORY: Figure = figure("dataplane RSS", "MiB", Aim::None, "58; 75; 203");
pub const COST: Figure = figure("Service in a test run, less one of nothing", "ns", AtMost(100.0), "");
pub const COST_COLD: Figure = figure("  one of many, each run by itself", "ns", Aim::None, "");
pub const NAMES: Figure = figure("DNS answers from cache per CPU second", "/s", AtLeast(50_000.0), "");
pub const NAMES_P99: Figure = figure("  p99 of 4 questions at a time", "ms", AtMost(1.0), "");
pub const BROKEN: Figure =
    figure("of 40 held connections broken or late > 50 ms by kill -9", "", AtMost(0.0), "0");

/// In the order in which they are printed.
pub const ROWS: &[Figure] = &[
    NEAR_SHORT,
    FAR_SHORT,
    NEAR_KEPT,
    FAR_KEPT,
    NFT_NEAR,
    NFT_FAR,
    PORT_NEAR,
    PORT_FAR,
    NFT_PORT_NEAR,
    NFT_PORT_FAR,
    OVERLAY_SHORT,
    OVERLAY_KEPT,
    OVERLAY_STREAM,
    ROUTED_SHORT,
    ROUTED_KEPT,
    ROUTED_STREAM,
    SPLICED,
    SPLICED_KEPT,
    CHANGE_P50,
    CHANGE_P99,
    OWN,
    APPEAR,
    START,
    MEMORY,
    BROKEN,
    COST,
    COST_COLD,
    NAMES,
    NAMES_P99,
];
