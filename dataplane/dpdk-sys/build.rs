//! Binds the installed DPDK: pkg-config finds it, bindgen reads its headers, cc compiles the wrappers of its inline
//! functions with DPDK's own flags.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Oldest release whose API the safe layer uses.
const DPDK_VERSION_MIN: &str = "22.11";

/// Libraries that hold the functions below, out of the fifty that libdpdk.pc lists. `rte_log` was
/// split off the EAL in 23.11; a name that pkg-config does not give is not linked.
const LIBRARIES: &[&str] = &["rte_eal", "rte_log", "rte_mempool", "rte_mbuf", "rte_ring", "rte_ethdev"];

/// Functions of DPDK that the safe layer calls, inline ones included.
const FUNCTIONS: &[&str] = &[
    "rte_version",
    "rte_eal_(init|cleanup|has_hugepages|hotplug_add|hotplug_remove)",
    "rte_eal_(remote_launch|wait_lcore|get_lcore_state)",
    "rte_lcore_(count|id)",
    "rte_strerror",
    "rte_log_(set_global_level|set_level_pattern)",
    "rte_(get_tsc_hz|rdtsc)",
    "rte_(cpu_get_intrinsics_support|power_pause)",
    "rte_pktmbuf_(pool_create_by_ops|alloc|alloc_bulk|free|free_bulk)",
    "rte_mempool_(free|avail_count|in_use_count)",
    "rte_ring_(create|free|count|sp_enqueue_burst|sc_dequeue_burst)",
    "rte_eth_dev_(is_valid_port|get_name_by_port|info_get|configure|start|stop|close)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|get_mtu|set_mtu|socket_id)",
    "rte_eth_dev_(rss_hash_conf_get|rss_hash_update|rss_reta_query|rss_reta_update)",
    "rte_eth_(rx_queue_setup|tx_queue_setup|rx_burst|tx_burst|macaddr_get|stats_get|xstats_get|xstats_get_names)",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_promiscuous_enable",
    "rte_softrss",
    "tg_.*",
];

/// Types that no listed function mentions.
const TYPES: &[&str] = &["tg_.*"];

/// Constants, most of them macros.
const VARS: &[&str] = &[
    "TG_.*",
    "RTE_MAX_(ETHPORTS|LCORE)",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_MBUF_F_RX_(RSS_HASH|VLAN|VLAN_STRIPPED)",
    "RTE_MBUF_F_TX_VLAN",
    "RTE_ETH_RX_OFFLOAD_(RSS_HASH|VLAN_STRIP)",
    "RTE_ETH_TX_OFFLOAD_VLAN_INSERT",
    "RTE_ETH_RSS_(IP|TCP|UDP|NONFRAG_IPV[46]_(TCP|UDP))",
    "RTE_ETH_RETA_GROUP_SIZE",
    "RTE_ETH_MQ_RX_RSS",
    "RTE_ETH_NAME_MAX_LEN",
    "RING_F_(SP_ENQ|SC_DEQ|EXACT_SZ)",
    "RTE_LOG_(EMERG|ALERT|CRIT|ERR|WARNING|NOTICE|INFO|DEBUG)",
    "LCORE_ID_ANY",
    "SOCKET_ID_ANY",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/shim");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    let out =
        PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("OUT_DIR is not set; run by cargo?")));

    let cflags = find_dpdk();
    generate(&cflags, &out);
    compile(&cflags, &out);
}

/// Finds DPDK, tells cargo to link it, and returns its compiler flags.
///
/// Linking is dynamic: drivers are plug-ins that the EAL loads from the directory compiled into it, so there is
/// nothing to name here and a driver packaged later is found without a rebuild.
fn find_dpdk() -> Vec<String> {
    let probe =
        pkg_config::Config::new().cargo_metadata(false).atleast_version(DPDK_VERSION_MIN).probe("libdpdk");
    let library = probe.unwrap_or_else(|error| {
        fail(&format!(
            "DPDK {DPDK_VERSION_MIN} or newer was not found: install libdpdk-dev and pkg-config (Debian, Ubuntu), \
             dpdk-devel and pkgconf (Fedora), or set PKG_CONFIG_PATH to the directory with libdpdk.pc of your own \
             build.\n{error}"
        ))
    });
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for name in library.libs.iter().filter(|name| LIBRARIES.contains(&name.as_str())) {
        println!("cargo:rustc-link-lib={name}");
    }
    // The pkg-config crate drops flags that it does not know, such as -march and -include, which the inline
    // functions depend on.
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = match Command::new(&program).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            fail(&format!("pkg-config --cflags libdpdk: {}", String::from_utf8_lossy(&output.stderr)))
        }
        Err(error) => fail(&format!("cannot run {}: {error}; install pkg-config", program.to_string_lossy())),
    };
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

/// Writes `bindings.rs` and the C wrappers of inline functions.
fn generate(cflags: &[String], out: &Path) {
    let mut builder = bindgen::Builder::default()
        .header("src/shim/shim.h")
        .clang_args(cflags)
        .clang_arg("-DALLOW_EXPERIMENTAL_API")
        // Many RTE_* constants are casts and shifts that bindgen's own evaluator does not follow.
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(out)
        .wrap_static_fns(true)
        .wrap_static_fns_path(out.join("inline"))
        // Fields are reached by TG_MBUF_*: the layout holds unions whose generated names are not stable.
        .opaque_type("rte_mbuf")
        // Never looked into, and reaching for their fields would bind half of the headers.
        .opaque_type("rte_mempool|rte_ring|rte_device|rte_flow")
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .allowlist_recursively(true)
        .formatter(bindgen::Formatter::None);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for ty in TYPES {
        builder = builder.allowlist_type(ty);
    }
    for var in VARS {
        builder = builder.allowlist_var(var);
    }
    // Without libclang bindgen panics instead of returning an error.
    let bindings = match catch_unwind(AssertUnwindSafe(|| builder.generate())) {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => fail(&format!(
            "cannot bind the DPDK headers: {error}; is the compiler's own stddef.h there? (install clang)"
        )),
        Err(_) => fail("libclang was not found: install clang and libclang-dev, or set LIBCLANG_PATH"),
    };
    if let Err(error) = bindings.write_to_file(out.join("bindings.rs")) {
        fail(&format!("cannot write {}: {error}", out.join("bindings.rs").display()));
    }
}

/// Compiles the wrappers and our own C lines.
fn compile(cflags: &[String], out: &Path) {
    let mut build = cc::Build::new();
    build.define("ALLOW_EXPERIMENTAL_API", None).include(".").opt_level(3).warnings(false);
    // These have to come one by one and in order: `-include rte_config.h` is two words.
    for flag in cflags {
        build.flag(flag);
    }
    build.file("src/shim/shim.c").file(out.join("inline.c")).compile("tg_dpdk_shim");
}

/// Ends the build with a message instead of a back-trace.
fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo:warning={line}");
    }
    eprintln!("dpdk-sys: {message}");
    exit(1)
}
